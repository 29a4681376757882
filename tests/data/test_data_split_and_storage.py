"""Held-out images, the shuffled stream, and every way of keeping the images."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from data_worlds import config, pictures, png, write_parquet
from gantk_eval.images import ArrayImages, ImageSet

from gantk.data import open_dataset, shuffled_indices
from gantk.data.dataset import heldout_share
from gantk.data.store import StreamedPixels
from gantk.errors import DataError


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "a.parquet", [png(image) for image in pictures(100)], (np.arange(100) % 4).tolist())


def test_held_out_images_are_never_trained_on(labelled: Path) -> None:
    dataset = open_dataset(config("parquet", labelled, heldout_fraction=0.2), seed=1)
    train, held = set(dataset.train._rows.tolist()), set(dataset.heldout._rows.tolist())
    assert (len(train), len(held)) == (80, 20)
    assert train | held == set(range(100))
    np.testing.assert_array_equal(dataset.heldout.read(range(20)), pictures(100)[sorted(held)])
    assert np.bincount(dataset.heldout.labels).tolist() == [5, 5, 5, 5]  # type: ignore[arg-type]
    same = open_dataset(config("parquet", labelled, heldout_fraction=0.2, use_labels=False), seed=1)
    assert same.heldout.labels is None
    other = open_dataset(config("parquet", labelled, heldout_fraction=0.2), seed=2)
    assert set(other.heldout._rows.tolist()) != held
    assert dataset.sha256 != other.sha256


def test_the_share_depends_on_seed_and_count_alone() -> None:
    np.testing.assert_array_equal(heldout_share(1000, 0.1, 5), heldout_share(1000, 0.1, 5))
    shares = [heldout_share(1000, 0.1, seed) for seed in range(200)]
    assert all(len(share) == len(set(share.tolist())) == 100 for share in shares)
    assert all((np.diff(share) > 0).all() for share in shares)
    # Every image is as likely as any other: binomial with n = 200, p = 0.1, so mean 20 and deviation 4.2.
    drawn = np.bincount(np.concatenate(shares), minlength=1000)
    assert drawn.min() > 2
    assert drawn.max() < 45
    assert len(heldout_share(3, 0.01, 0)) == 1


def test_each_class_gives_its_share() -> None:
    labels = np.repeat([0, 1, 2], [700, 250, 50])
    for seed in range(5):
        share = heldout_share(1000, 0.1, seed, labels)
        np.testing.assert_allclose(np.bincount(labels[share]), [70, 25, 5], atol=1)


def test_limit_is_for_training_images(labelled: Path) -> None:
    whole = open_dataset(config("parquet", labelled, heldout_fraction=0.2))
    some = open_dataset(config("parquet", labelled, heldout_fraction=0.2, limit=30))
    assert (len(some.train), len(some.heldout)) == (30, 20)
    np.testing.assert_array_equal(some.train.read(range(30)), whole.train.read(range(30)))
    assert some.heldout.fingerprint() == whole.heldout.fingerprint()
    assert some.sha256 != whole.sha256


def test_samples_of_a_class_that_the_limit_left_out_are_no_foreign_ones(labelled: Path) -> None:
    """Networks make all classes of the data, whichever the few training images are of."""
    from gantk_eval.labels import align_labels

    few = open_dataset(config("parquet", labelled, heldout_fraction=0.2, limit=2))
    assert few.train.labels is not None
    assert few.train.labels.max() < 3
    samples = ArrayImages(pictures(8), np.arange(8) % 4)
    for images in (samples, few.heldout):
        assert (align_labels(images, few.train) == images.labels).all()
    with pytest.raises(DataError, match=r"lacks \(4\), whose classes are 0 to 3"):
        align_labels(ArrayImages(pictures(5), np.arange(5)), few.train)


def test_every_storage_gives_the_same_bits(labelled: Path) -> None:
    positions = range(0, 300, 3)
    expected = None
    for storage in ("memory", "device", "disk", "stream", "auto"):
        dataset = open_dataset(config("parquet", labelled, storage=storage, resolution=6))
        store = dataset.train
        batches = []
        steps = [shuffled_indices(positions[i : i + 10], len(store), 7) for i in range(0, 100, 10)]
        for now, coming in zip(steps, [*steps[1:], None], strict=True):
            batch = store.fetch(now, upcoming=coming)
            assert batch.dtype == torch.uint8
            assert batch.shape == (10, 3, 6, 6)
            assert batch.is_contiguous(memory_format=torch.channels_last)
            np.testing.assert_array_equal(batch.permute(0, 2, 3, 1).numpy(), store.read(now.numpy()))
            batches.append(batch)
        seen = torch.cat(batches)
        expected = seen if expected is None else expected
        assert torch.equal(seen, expected), storage
        labels = store.label_of(steps[0])
        assert labels is not None
        assert labels.tolist() == (store._rows[steps[0].numpy()] % 4).tolist()
        assert store.fetch(torch.empty(0, dtype=torch.int64)).shape == (0, 3, 6, 6)


def test_upcoming_is_read_in_the_background_once(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_dataset(config("parquet", labelled, storage="stream")).train
    threads: set[str] = set()
    read: list[int] = []
    rows = StreamedPixels.rows

    def counting(self: StreamedPixels, wanted: np.ndarray) -> np.ndarray:
        threads.add(threading.current_thread().name)
        read.extend(wanted.tolist())
        return rows(self, wanted)

    monkeypatch.setattr(StreamedPixels, "rows", counting)
    steps = [torch.arange(start, start + 8) for start in (0, 8, 16)]
    for now, coming in zip(steps, [*steps[1:], None], strict=True):
        store.fetch(now, upcoming=coming)
    assert sorted(read) == sorted(store._rows[:24].tolist())
    assert threading.current_thread().name not in threads
    # A prediction that does not come true costs time, not correctness.
    store.fetch(steps[0], upcoming=steps[1])
    np.testing.assert_array_equal(store.fetch(steps[2]).permute(0, 2, 3, 1).numpy(), store.read(steps[2].numpy()))


def test_a_stream_names_what_is_damaged(tmp_path: Path) -> None:
    encoded = [png(image) for image in pictures(20)]
    encoded[11] = encoded[11][:40]
    path = write_parquet(tmp_path / "a.parquet", encoded)
    store = open_dataset(config("parquet", path, storage="stream", heldout_fraction=0.01)).train
    with pytest.raises(DataError, match="row 11 of"):
        store.fetch(torch.arange(len(store)))


def test_auto_takes_the_first_that_fits(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_dataset(config("parquet", labelled)).train.storage == "memory"
    size = 90 * 8 * 8 * 3
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=3 * size))
    assert open_dataset(config("parquet", labelled)).train.storage == "memory"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # each process would hold a copy
    assert open_dataset(config("parquet", labelled)).train.storage == "disk"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (5 * size, 10 * size))
    assert open_dataset(config("parquet", labelled), device="cuda").train.storage == "device"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 * size, 10 * size))
    assert open_dataset(config("parquet", labelled), device="cuda").train.storage == "disk"


def test_a_store_is_an_image_set(labelled: Path) -> None:
    store = open_dataset(config("parquet", labelled)).train
    assert isinstance(store, ImageSet)
    twin = ArrayImages(pictures(100)[store._rows], store._rows % 4)
    assert store.fingerprint() == twin.fingerprint()
    streamed = open_dataset(config("parquet", labelled, storage="stream")).train
    assert streamed.fingerprint() == open_dataset(config("parquet", labelled, storage="stream")).sha256
    assert streamed.fingerprint() != open_dataset(config("parquet", labelled, storage="stream", limit=9)).sha256


def test_every_storage_has_the_same_identity(labelled: Path) -> None:
    identities = {open_dataset(config("parquet", labelled, storage=s)).identity for s in ("memory", "disk", "stream")}
    assert len(identities) == 1
    for other in ({"limit": 9}, {"use_labels": False}, {"resolution": 4}, {"channels": 1}):
        for storage in ("memory", "stream"):
            assert open_dataset(config("parquet", labelled, storage=storage, **other)).identity not in identities


# The order


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_each_epoch_is_a_permutation_of_its_own(size: int) -> None:
    stream = shuffled_indices(range(5 * size), size, seed=11).view(5, size)
    for epoch in stream:
        assert sorted(epoch.tolist()) == list(range(size))
    if size == 100:
        assert len({tuple(epoch.tolist()) for epoch in stream}) == 5
        assert not torch.equal(stream[0], shuffled_indices(range(100), 100, seed=12))


def test_any_position_can_be_asked_for_alone() -> None:
    whole = shuffled_indices(range(250), 33, seed=4)
    for position in (0, 32, 33, 100, 249):
        assert shuffled_indices(torch.tensor([position]), 33, seed=4).item() == whole[position]
    mixed = torch.randperm(250)
    assert torch.equal(shuffled_indices(mixed, 33, seed=4), whole[mixed])
    # Two ranks that take every other position see what one process sees.
    ranks = torch.stack([shuffled_indices(range(rank, 250, 2), 33, seed=4) for rank in range(2)], dim=1)
    assert torch.equal(ranks.flatten(), whole)
    far = shuffled_indices(range(10**12, 10**12 + 5), 33, seed=4)
    assert ((far >= 0) & (far < 33)).all()


def test_the_order_is_the_same_in_another_process_and_stays_so() -> None:
    program = "from gantk.data.sampler import shuffled_indices; print(shuffled_indices(range(12), 8, 42).tolist())"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    here = shuffled_indices(range(12), 8, 42).tolist()
    assert out.strip() == str(here)
    torch.manual_seed(0)
    assert shuffled_indices(range(12), 8, 42).tolist() == here


def test_orders_of_neighbouring_seeds_are_unrelated() -> None:
    """Matches between two random permutations are Poisson(1): over 400 pairs the mean is within 5 deviations
    of 1.
    """
    matches = [
        (shuffled_indices(range(500), 500, s) == shuffled_indices(range(500 * e, 500 * (e + 1)), 500, s + 1 - e))
        .sum()
        .item()
        for s in range(200)
        for e in (0, 1)
    ]
    assert abs(np.mean(matches) - 1) < 0.25


def test_the_sampler_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        shuffled_indices(range(3), 0, 0)
    with pytest.raises(ValueError, match="negative"):
        shuffled_indices(torch.tensor([-1]), 3, 0)
    assert shuffled_indices(range(0), 3, 0).shape == (0,)
