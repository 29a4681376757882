"""Datasets of the Hugging Face hub."""

from __future__ import annotations

import base64
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from gantk_eval import cache_folder, terminal
from gantk_eval.columns import picture_of
from gantk_eval.errors import DataError
from gantk_eval.paths import offline
from gantk_eval.progress import wanted

from gantk.config.schema import DataConfig
from gantk.data.hashing import digest_of, read_json, write_json
from gantk.data.sources.base import HUB_ID, Item
from gantk.data.sources.tables import TableSource

PROBE_SECONDS = 5.0
COMMIT = re.compile(r"[0-9a-f]{40}")
logger = logging.getLogger(__name__)


class Hub:
    """A dataset on the hub, all its splits. Nothing is touched before it is needed.

    What a pinned commit's splits are is remembered in the cache folder, so that a cluster node without a
    network, and without the hub's own files, can use what `gantk prepare` decoded elsewhere.
    """

    def __init__(self, config: DataConfig, *, progress: bool = False) -> None:
        self.id = config.path or ""
        self._progress = progress
        self.revision = config.revision
        self.name = config.name
        self._instead = " ".join(["data.source=folder", "data.path=FOLDER", *config.without_hub()])
        if Path(self.id).expanduser().exists():
            raise DataError(
                f"data.path={self.id} is on this disk, and data.source=hub means a dataset's id; set "
                f"{self._instead.replace(' data.path=FOLDER', '')} (or parquet, npz for folder)"
            )
        if not HUB_ID.fullmatch(self.id):
            raise DataError(
                f"data.path={self.id} is not a dataset's id on the hub (owner/name), and there is no such "
                f"file or folder; for local images set {self._instead} (or parquet, npz for folder)"
            )
        self._memo_path = cache_folder() / "data" / "hub" / f"{digest_of(self.id, self.name, self.revision)[:32]}.json"

    @cached_property
    def splits(self) -> dict[str, str]:
        """The name of each split, with a fingerprint of what it holds."""
        return {name: fingerprint for name, (fingerprint, _) in self._known.items()}

    def schema(self, split: str) -> pa.Schema:
        """The columns of a split, with the features that `datasets` knows of them."""
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self._known[split][1])))

    @cached_property
    def _known(self) -> dict[str, tuple[str, str]]:
        """The fingerprint and the columns of each split, as base64 of Arrow's own bytes."""
        memo = read_json(self._memo_path).get("columns")
        if memo and COMMIT.fullmatch(self.revision or ""):
            return {name: (fingerprint, schema) for name, (fingerprint, schema) in memo.items()}
        known = {
            name: (str(split._fingerprint), base64.b64encode(split.features.arrow_schema.serialize()).decode())
            for name, split in self.datasets.items()
        }
        write_json(self._memo_path, {"id": self.id, "revision": self.revision, "columns": known})
        return known

    @cached_property
    def datasets(self) -> dict[str, Any]:
        """Every split as a memory-mapped `datasets.Dataset`, downloaded where that has not been done.

        Raises DataError where that cannot be: without a network, within seconds.
        """
        import datasets

        commit = None if offline() else self.commit_on_hub()
        options: dict[str, Any] = {"name": self.name, "revision": commit or self.revision}
        if commit:
            options["download_config"] = datasets.DownloadConfig(max_retries=5)
            if wanted(self._progress):
                terminal.say(f"downloading {self.id} from the hub, as far as it is not on this disk (once)")
            with _bars(wanted(self._progress) and terminal.is_terminal()):
                return dict(self._loaded(lambda: datasets.load_dataset(self.id, **options)))
        with _hub_offline(), _bars(wanted(self._progress) and terminal.is_terminal()):
            found = dict(self._loaded(lambda: datasets.load_dataset(self.id, **options)))
        if COMMIT.fullmatch(self.revision or ""):
            files = [Path(file["filename"]) for split in found.values() for file in split.cache_files]
            # Without a network, `datasets` takes whichever commit was loaded last.
            if not all(self.revision in file.parts for file in files):
                raise self._unreachable()
        return found

    @property
    def commit(self) -> str | None:
        """The commit whose files these are, 40 hex digits; None where a copy on this disk does not tell."""
        if COMMIT.fullmatch(self.revision or ""):
            return self.revision
        parts = {
            part
            for split in self.datasets.values()
            for file in split.cache_files
            for part in Path(file["filename"]).parts
            if COMMIT.fullmatch(part)
        }
        return parts.pop() if len(parts) == 1 else None

    def _loaded(self, load: Callable[[], Any]) -> Any:
        from datasets.exceptions import DatasetNotFoundError

        try:
            return load()
        except DatasetNotFoundError as error:
            raise self._not_found() from error
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise DataError(
                    f"cannot load {self.id} from the hub: {_first_line(error)}; try another copy of it"
                ) from error
            raise DataError(
                f"{self.id} is a loading script, which the datasets library no longer runs; search the hub "
                "for a copy of it in parquet, and set data.path and data.revision to that"
            ) from error
        except (ConnectionError, TimeoutError, FileNotFoundError) as error:
            raise self._unreachable() from error
        except ValueError as error:
            if "Couldn't find cache" in str(error):
                raise self._unreachable() from error
            raise DataError(
                f"cannot load {self.id}{f' ({self.name})' if self.name else ''} from the hub: "
                f"{_first_line(error)}; set data.name to one of the dataset's configurations"
            ) from error
        except Exception as error:
            raise DataError(
                f"cannot load {self.id} from the hub: {_first_line(error)}; run the command again (what was "
                f"downloaded is kept), or use a local copy with {self._instead} (or parquet for folder)"
            ) from error

    def commit_on_hub(self) -> str | None:
        """The commit that the revision is now, or None where the hub does not answer within seconds."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        answer: list[str | Exception | None] = []

        def ask() -> None:
            try:
                answer.append(HfApi().dataset_info(self.id, revision=self.revision, timeout=PROBE_SECONDS).sha)
            except Exception as error:
                answer.append(error)

        # In a thread of its own, for looking a name up knows no time limit.
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(PROBE_SECONDS)
        found = answer[0] if answer else None
        if isinstance(found, RevisionNotFoundError):
            raise DataError(
                f"the dataset {self.id} has no revision {self.revision}; set data.revision to a commit, tag "
                "or branch it has"
            ) from found
        if isinstance(found, RepositoryNotFoundError):
            raise self._not_found() from found
        if isinstance(found, Exception):
            logger.warning("the hub does not answer (%s); looking for a copy on this disk", _first_line(found))
            return None
        return found

    def _not_found(self) -> DataError:
        return DataError(
            f"there is no dataset {self.id} on the hub, or it is private or gated; correct data.path, or "
            "log in with `hf auth login`"
        )

    def _unreachable(self) -> DataError:
        revision = f" at revision {self.revision}" if self.revision else ""
        return DataError(
            f"the dataset {self.id}{revision} is not on this disk and the hub cannot be reached; run `gantk "
            "prepare` with this config where there is a network and bring $GANTK_CACHE here, or train on "
            f"your own images with {self._instead}"
        )


class HubSource(TableSource):
    """One split of a dataset on the hub. Raises DataError, listing the splits, where it is not there."""

    def __init__(self, hub: Hub, split: str, config: DataConfig) -> None:
        super().__init__(config)
        self._hub = hub
        self._split = split
        self.description = f"hub {hub.id} ({split})"
        if split not in hub.splits:
            raise DataError(
                f"the dataset {hub.id} has no split `{split}` (it has {', '.join(hub.splits)}); set data.split"
            )

    @property
    def commit(self) -> str | None:  # type: ignore[override]
        return self._hub.commit

    @cached_property
    def _table(self) -> pa.Table:
        dataset = self._hub.datasets[self._split]
        if dataset._indices is not None:  # rows that were chosen or shuffled: only a freshly loaded table is in order
            dataset = dataset.flatten_indices()
        return dataset.data.table

    @cached_property
    def _schema(self) -> pa.Schema:
        return self._hub.schema(self._split)

    def _columns(self, name: str) -> list[tuple[pa.Schema, pa.ChunkedArray]]:
        return [(self._schema, self._table.column(name))]

    @cached_property
    def _pictures(self) -> pa.ChunkedArray:
        return self._table.column(self._image_column)

    def __len__(self) -> int:
        return self._table.num_rows

    def fingerprint(self) -> str:
        hub = self._hub
        return digest_of("hub", hub.id, hub.name, self._split, hub.splits[self._split], self._columns_wanted())

    def items(self, start: int = 0) -> Iterator[Item]:
        for chunk in self._pictures.slice(start).chunks:
            for cell in chunk:
                yield picture_of(cell.as_py())

    def locate(self, index: int) -> str:
        return f"row {index} of split {self._split} of {self._hub.id}"


@contextmanager
def _hub_offline() -> Iterator[None]:
    """Keeps `datasets` and `huggingface_hub` off the network: they would retry for half a minute."""
    import datasets
    import huggingface_hub

    places = [(datasets.config, "HF_HUB_OFFLINE"), (huggingface_hub.constants, "HF_HUB_OFFLINE")]
    before = [getattr(module, name) for module, name in places]
    try:
        for module, name in places:
            setattr(module, name, True)
        yield
    finally:
        for (module, name), value in zip(places, before, strict=True):
            setattr(module, name, value)


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Keeps the bars of `datasets` and `huggingface_hub` out of log files."""
    import datasets.utils
    import huggingface_hub.utils

    modules = (datasets.utils, huggingface_hub.utils)
    taken_away = [] if shown else [module for module in modules if not module.are_progress_bars_disabled()]
    for module in taken_away:
        module.disable_progress_bars()
    try:
        yield
    finally:
        for module in taken_away:
            module.enable_progress_bars()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
