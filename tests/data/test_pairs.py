"""Sources whose rows belong together, and sources that have nothing to do with each other."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_worlds import png, write_parquet

from gantk.config import Config, dump_yaml, load_config, parse_config
from gantk.data import Dataset, open_datasets, shuffled_indices
from gantk.errors import ConfigError, DataError
from gantk.training.batches import Stream

COUNT = 60


def pictures(level: int) -> list[bytes]:
    """Picture i of each source is brighter by `level`, and says its number; its left column tells whether it is flipped."""
    made = []
    for number in range(COUNT):
        image = np.full((8, 8, 3), number * 3 + level, dtype=np.uint8)
        image[:, 0] = 255
        made.append(png(image))
    return made


@pytest.fixture
def world(tmp_path: Path) -> Path:
    labels = (np.arange(COUNT) % 4).tolist()
    write_parquet(tmp_path / "a.parquet", pictures(0))
    write_parquet(tmp_path / "b.parquet", pictures(1), labels)
    write_parquet(tmp_path / "c.parquet", pictures(2))
    write_parquet(tmp_path / "short.parquet", pictures(1)[:-1])
    damaged = pictures(2)
    damaged[17] = damaged[17][:30]
    write_parquet(tmp_path / "damaged.parquet", damaged)
    return tmp_path


def config(world: Path, *, main: str = "a", pair: str | None = "data", **keys: Any) -> Config:
    """`data` a (or `main`), and `extra_data` b and c, which are paired with `pair`; `keys` are those of `data`."""
    shared = {"resolution": 8}
    extra = {**shared, **({} if pair is None else {"paired_with": pair})}
    return parse_config(
        {
            "name": "pairs",
            "data": {"source": "parquet", "path": str(world / f"{main}.parquet"), **shared, **keys},
            "extra_data": {
                "b": {"source": "parquet", "path": str(world / "b.parquet"), **extra},
                "c": {
                    "source": "parquet",
                    "path": str(world / "c.parquet"),
                    **extra,
                    "paired_with": "b" if pair else None,
                },
            },
            "network": {"type": "dcgan"},
            "objective": {"type": "gan"},
            "train": {"kimg": 1, "batch_size": 4},
        }
    )


def played(config: Config, datasets: dict[str, Dataset], count: int = 200) -> dict[str, tuple[list[int], list[bool]]]:
    """Return for each source the numbers of the pictures in the order of training, and whether each was flipped."""
    found = {}
    for name, data in config.sources.items():
        stream = Stream(
            datasets[name], config.seed, data.flip, torch.device("cpu"), torch.float64, config.order_of(name)
        )
        pixels = ((stream.take(torch.arange(count), None).images + 1) * 127.5).round().long()[:, 0, 0]
        flipped = pixels[:, 7] == 255
        level = {"": 0, "b": 1, "c": 2}[name]
        found[name] = (((pixels[:, 3] - level) // 3).tolist(), flipped.tolist())
    return found


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"limit": 23},
        {"flip": True},
        {"heldout_fraction": 0.4},
        {"flip": True, "limit": 31, "heldout_fraction": 0.3},
    ],
    ids=str,
)
@pytest.mark.parametrize("main", ["a", "b"])
def test_pairs_stay_pairs(keys: dict[str, Any], main: str, world: Path) -> None:
    """Also with labels in one of them, by which the held-out share is drawn where it is the first."""
    made = config(world, main=main, **keys)
    datasets = open_datasets(made)
    level = 0 if main == "a" else 1
    orders = played(made, datasets)
    if level:
        orders[""] = played(config(world, main="b", **keys), datasets)[""]
    assert orders[""] == orders["b"] == orders["c"]
    assert len(set(orders[""][0])) == min(
        keys.get("limit", COUNT), COUNT - round(keys.get("heldout_fraction", 0.1) * COUNT)
    )
    assert any(orders[""][1]) == keys.get("flip", False)
    rows = {name: dataset.heldout._rows.tolist() for name, dataset in datasets.items()}
    assert rows[""] == rows["b"] == rows["c"]
    held = datasets["b"].heldout.labels
    assert held is not None
    if main == "b":
        assert np.ptp(np.bincount(held, minlength=4)) <= 1


def test_sources_that_are_not_paired_do_not_meet_in_the_same_pairs(world: Path) -> None:
    made = config(world, pair=None, flip=True)
    orders = played(made, open_datasets(made))
    size = COUNT - round(0.1 * COUNT)
    for (one, _), (other, _) in combinations(orders.values(), 2):
        # Of one size by luck; that they met in the same pairs in every epoch was no luck.
        meetings = [set(zip(one[at : at + size], other[at : at + size], strict=True)) for at in (0, size, 2 * size)]
        assert sum(a == b for a, b in meetings[0]) < 10
        assert len(meetings[0] & meetings[1]) < 10
    assert any(orders[""][1])
    assert not any(orders["b"][1] + orders["c"][1]), "the flip of the main source is its own"


def test_the_order_of_the_main_source_has_no_name() -> None:
    plain = shuffled_indices(range(100), 100, seed=3)
    assert torch.equal(plain, shuffled_indices(range(100), 100, seed=3, source=""))
    for name in ("b", "c", "data"):
        other = shuffled_indices(range(100), 100, seed=3, source=name)
        assert (plain == other).sum() < 8
        assert sorted(other.tolist()) == list(range(100))


def test_the_pairs_of_a_run_are_in_its_config(world: Path, tmp_path: Path) -> None:
    made = config(world, flip=True, limit=12, heldout_fraction=0.2)
    assert [made.extra_data[name].flip for name in ("b", "c")] == [True, True]
    assert {made.extra_data[name].limit for name in ("b", "c")} == {12}
    assert {made.extra_data[name].heldout_fraction for name in ("b", "c")} == {0.2}
    (tmp_path / "config.yaml").write_text(dump_yaml(made))
    assert load_config(tmp_path / "config.yaml") == made
    with pytest.raises(ConfigError, match=r"`extra_data\.b\.limit: 12` differs from `data\.limit: 13`"):
        load_config(tmp_path / "config.yaml", ["data.limit=13"])


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("extra_data.b.paired_with=d", r"`extra_data\.b\.paired_with` does not lead to .*: name one of data, c"),
        ("extra_data.b.paired_with=c", r"`extra_data\.b\.paired_with` does not lead to"),
        ("extra_data.b.flip=true", r"`extra_data\.b\.flip: True` differs from `data\.flip: False`"),
        ("data={source: mixture, mixture: ring}", r"goes with stored images, and `data\.source: mixture`"),
    ],
)
def test_what_cannot_be_a_pair_is_refused(override: str, sentence: str, world: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump_yaml(config(world)))
    with pytest.raises(ConfigError, match=sentence):
        load_config(tmp_path / "config.yaml", [override])


def test_pairs_are_counted(world: Path) -> None:
    with pytest.raises(DataError, match=r"data has 59 images and extra_data\.b has 60, .*`paired_with`.* equally many"):
        open_datasets(config(world, main="short"))
    made = config(world, heldout_path=str(world / "c.parquet"))
    with pytest.raises(DataError, match=r"data has 60 held-out images of its own and extra_data\.b has 0"):
        open_datasets(made)
    assert len(open_datasets(config(world, main="short", pair=None))[""].heldout) == 6


def test_an_image_that_is_damaged_in_one_is_left_out_of_all(world: Path) -> None:
    made = config(world, main="damaged", on_bad_image="skip", max_bad_images=0.1)
    datasets = open_datasets(made)
    for dataset in datasets.values():
        rows = [*dataset.train._rows.tolist(), *dataset.heldout._rows.tolist()]
        assert sorted(rows) == [row for row in range(COUNT) if row != 17]
    alone = open_datasets(made, names=[""])
    assert list(alone) == [""]
    assert alone[""].identity == datasets[""].identity


@pytest.mark.parametrize("paired", [True, False])
def test_a_run_plays_on_the_pairs(paired: bool, world: Path, project_root: Path) -> None:
    """The difference of the two images of a pair is one grey level, whatever is flipped."""
    from gantk.training.trainer import Trainer

    source = "source: parquet, resolution: 8, channels: 1"
    trainer = Trainer(
        load_config(
            project_root / "configs" / "tiny.yaml",
            [
                f"data={{{source}, path: {world / 'a.parquet'}, flip: true, limit: 40}}",
                f"extra_data={{b: {{{source}, path: {world / 'b.parquet'}{', paired_with: data' if paired else ''}}}}}",
            ],
        )
    )
    trainer.batches.begin_step()
    (batch,) = trainer.batches.next("d", 0, 0, True)
    difference = ((batch.sources["b"].images - batch.images) * 127.5)[:, :, :, 1:7].abs().mean()
    assert (difference < 1.01) == paired
