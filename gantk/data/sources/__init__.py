"""Where images come from. A new source is a class in a file of its own and a line in `open_sources`."""

from __future__ import annotations

from gantk_eval.errors import DataError

from gantk.config.schema import DataConfig
from gantk.data.sources.base import Item, Source

__all__ = ["Item", "Source", "open_sources"]


def open_sources(config: DataConfig, *, progress: bool = False) -> tuple[Source, Source | None]:
    """The source to train on, and the data's own held-out source where it has one.

    Raises DataError, in one sentence, where the data is not there or is not what the config says.
    """
    train, heldout = _open(config, progress)
    for source in (train, heldout):
        if source is not None:
            source.progress = progress
    if heldout is not None and heldout.fingerprint() == train.fingerprint():
        raise DataError(
            f"the held-out images are the training images ({train.description}); name others, or leave them "
            "out to have a share of the images set apart"
        )
    return train, heldout


def _open(config: DataConfig, progress: bool) -> tuple[Source, Source | None]:
    path = config.path or ""
    if config.source == "hub":
        return _open_hub(config, progress)
    if config.source == "digits":
        from gantk.data.sources.arrays import DigitsSource

        return DigitsSource(use_labels=config.use_labels), None
    if config.source == "mnist5k":
        from gantk.data.sources.mnist5k import Mnist5kSource

        return Mnist5kSource(use_labels=config.use_labels), None
    if config.source == "parquet":
        from gantk.data.sources.tables import ParquetSource

        return ParquetSource(path, config), ParquetSource(config.heldout_path, config) if config.heldout_path else None
    if config.source == "npz":
        from gantk.data.sources.arrays import NpzSource as Opened
    else:
        from gantk.data.sources.folder import FolderSource as Opened  # type: ignore[assignment]
    train = Opened(path, use_labels=config.use_labels)
    return train, Opened(config.heldout_path, use_labels=config.use_labels) if config.heldout_path else None


def _open_hub(config: DataConfig, progress: bool) -> tuple[Source, Source | None]:
    from gantk.data.sources.hub import Hub, HubSource

    hub = Hub(config, progress=progress)
    train = HubSource(hub, config.split, config)
    split = config.heldout_split
    if split is None:
        split = next((name for name in ("test", "validation") if name in hub.splits and name != config.split), None)
    elif split not in hub.splits:
        raise DataError(
            f"the dataset {hub.id} has no split `{split}` (it has {', '.join(hub.splits)}); set data.heldout_split"
        )
    return train, HubSource(hub, split, config) if split else None
