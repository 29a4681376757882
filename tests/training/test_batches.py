"""Real images by position: what they depend on, and how a step's batch is cut."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gantk_eval.images import ArrayImages

from gantk.config.schema import DataConfig
from gantk.data import open_dataset
from gantk.training.batches import Batches, Stream

CPU = torch.device("cpu")


class Images:
    """A store in which image i is all of the grey level i, but for its left column, and has the label i % 5."""

    reads_ahead = True

    def __init__(self, count: int) -> None:
        pixels = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2)
        pixels[:, :, 0] += 50
        self.set = ArrayImages(pixels)
        self.asked: list[tuple[torch.Tensor, torch.Tensor | None]] = []

    def __len__(self) -> int:
        return len(self.set)

    def fetch(self, indices: torch.Tensor, upcoming: torch.Tensor | None = None) -> torch.Tensor:
        self.asked.append((indices, upcoming))
        return torch.from_numpy(self.set.read(indices.numpy())).permute(0, 3, 1, 2)

    def label_of(self, indices: torch.Tensor) -> torch.Tensor:
        return indices % 5


def stream(count: int = 20, seed: int = 0, flip: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    return Stream(SimpleNamespace(train=Images(count)), seed, flip, CPU, dtype)  # type: ignore[arg-type]


def batches(
    main: Any, *, world: int = 1, rank: int = 0, accumulation: int = 1, seed: int = 0, size: int = 8, **extra: Any
) -> Batches:
    return Batches(main, extra, seed=seed, batch_size=size, accumulation=accumulation, rank=rank, world_size=world)


def number(images: torch.Tensor) -> list[int]:
    """Which image each one is, from its grey level."""
    return (images[:, 0, 0, 1] * 127.5 + 127.5).round().int().tolist()


def test_pixels_are_normalised() -> None:
    plain = stream()
    images = plain.take(torch.arange(20), None)
    level = plain.dataset.train.set.read(plain.indices(torch.arange(20)).numpy())
    wanted = torch.from_numpy(level.astype(np.float64)).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(images.images.double(), wanted, atol=1e-6, rtol=0)
    assert images.images.dtype == torch.float32
    assert images.labels is not None
    assert images.labels.tolist() == [n % 5 for n in number(images.images)]
    ends = torch.tensor([0.0, 255.0]).sub_(127.5).div_(127.5)
    assert ends.tolist() == [-1, 1]


def test_every_epoch_has_every_image_once_in_another_order() -> None:
    plain = stream()
    epochs = [number(plain.take(torch.arange(20) + 20 * epoch, None).images) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert number(stream(seed=1).take(torch.arange(20), None).images) != epochs[0]
    # An epoch's end in the middle of a batch.
    across = number(plain.take(torch.arange(15, 25), None).images)
    assert across == epochs[0][15:] + epochs[1][:5]


def test_half_of_the_images_are_flipped_anew_each_time() -> None:
    flipped = stream(flip=True)

    def mirrored(positions: torch.Tensor) -> torch.Tensor:
        images = flipped.take(positions, None).images[:, 0, 0]
        left = images[:, 0] > images[:, 3]
        right = images[:, 3] > images[:, 0]
        assert (left ^ right).all()
        return right

    share = torch.cat([mirrored(torch.arange(20) + 20 * epoch) for epoch in range(100)])
    assert abs(share.double().mean() - 0.5) < 4 * 0.5 / 2000**0.5
    # By position, not by image, and not by the cut of the batch.
    assert torch.equal(mirrored(torch.arange(5, 9)), mirrored(torch.arange(20))[5:9])
    one = {n: bool(m) for n, m in zip(number(stream().take(torch.arange(20), None).images), share[:20], strict=True)}
    two = {
        n: bool(m) for n, m in zip(number(stream().take(torch.arange(20, 40), None).images), share[20:40], strict=True)
    }
    assert one != two


def test_ranks_and_micro_batches_part_the_batch() -> None:
    whole = number(next(batches(stream()).next("d", 0, 0, True)).images)
    assert len(whole) == 8
    for world, accumulation in ((2, 1), (1, 2), (2, 2), (4, 2)):
        seen: dict[int, int] = {}
        for rank in range(world):
            part = batches(stream(), world=world, rank=rank, accumulation=accumulation)
            micro = list(part.next("d", 0, 0, True))
            assert len(micro) == accumulation
            assert {len(batch) for batch in micro} == {8 // world // accumulation}
            for batch in micro:
                seen.update(zip(batch.index.tolist(), number(batch.images), strict=True))
        assert [seen[row] for row in range(8)] == whole


def test_draws_belong_to_the_row_and_the_moment() -> None:
    def z(
        step: int = 3, phase: str = "d", repeat: int = 0, seed: int = 0, purpose: str = "z", **cut: int
    ) -> torch.Tensor:
        micro = batches(stream(), seed=seed, **cut).next(phase, step, repeat, True)
        return torch.cat([batch.draw(purpose).normal(4) for batch in micro])

    whole = z()
    assert torch.equal(z(), whole)
    assert torch.equal(z(accumulation=4), whole)
    assert torch.equal(torch.cat([z(world=2, rank=rank) for rank in range(2)]), whole)
    for other in (z(step=4), z(phase="g"), z(repeat=1), z(seed=1), z(purpose="noise")):
        assert not torch.isclose(other, whole).any()
    assert not torch.isclose(z(world=2, rank=0), z(world=2, rank=1)).any()


def test_shared_draws_belong_to_the_images() -> None:
    made = batches(stream())

    def z(phase: str, step: int, repeat: int, new: bool) -> torch.Tensor:
        (batch,) = made.next(phase, step, repeat, new)
        return batch.shared("z").normal(4)

    made.begin_step()
    first, second = z("d", 3, 0, True), z("d", 3, 1, True)
    assert torch.equal(z("r1", 3, 0, False), second)
    assert torch.equal(z("g", 3, 0, False), second)
    third = z("g", 3, 0, True)
    made.begin_step()
    next_step = z("d", 4, 0, True)
    made.begin_step()
    assert torch.equal(z("d", 3, 0, True), first)
    (batch,) = made.next("d", 3, 0, False)
    others = [second, third, next_step, batch.draw("z").normal(4), batch.shared("noise").normal(4)]
    for one, other in combinations([first, *others], 2):
        assert not torch.isclose(one, other).any()
    cut = batches(stream(), accumulation=4)
    assert torch.equal(torch.cat([batch.shared("z").normal(4) for batch in cut.next("d", 3, 0, True)]), first)


def test_phases_play_on_the_same_images_or_on_new_ones() -> None:
    made = batches(stream())
    made.begin_step()
    first = number(next(made.next("d", 0, 0, True)).images)
    second = number(next(made.next("d", 0, 1, True)).images)
    same = number(next(made.next("g", 0, 0, False)).images)
    assert made.cursor == 16
    assert same == second != first
    # The first phase of a step draws, whatever it asks for.
    made.begin_step()
    fresh = number(next(made.next("g", 1, 0, False)).images)
    assert made.cursor == 24
    assert not set(fresh[:4]) & set(first + second)  # 16 … 19 end the epoch


def test_what_comes_next_is_announced() -> None:
    main = stream()
    made = batches(main, accumulation=2)
    for step in range(3):
        made.begin_step()
        list(made.next("d", step, 0, True))
    asked = main.dataset.train.asked
    for (_, announced), (taken, _) in pairwise(asked):
        assert torch.equal(announced, taken)


def test_sources_come_with_the_same_rows() -> None:
    made = batches(stream(), b=stream(40, seed=5))
    (batch,) = made.next("d", 0, 0, True)
    assert number(batch.sources["b"].images) == number(stream(40, seed=5).take(torch.arange(8), None).images)
    assert batch.sources["b"].images.shape == batch.images.shape


def test_storages_give_the_same_images(tmp_path: Path) -> None:
    taken = []
    for storage in ("memory", "disk", "stream"):
        config = DataConfig(source="digits", resolution=8, storage=storage, limit=50, flip=True)  # type: ignore[arg-type]
        made = Stream(open_dataset(config), 0, True, CPU, torch.float32)
        taken.append(torch.cat([made.take(torch.arange(at, at + 30), None).images for at in (0, 30)]))
    assert torch.equal(taken[0], taken[1])
    assert torch.equal(taken[0], taken[2])


def test_negative_cut_is_impossible() -> None:
    with pytest.raises(ValueError, match="not be negative"):
        stream().take(torch.tensor([-1]), None)
