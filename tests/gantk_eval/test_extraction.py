"""Extraction: the same scores in any batches and formats, resumed where it stopped, streamed where there is too much."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from gantk_eval import ArrayImages, DataError, Evaluator, GeneratedImages, evaluate, extraction, open_images
from gantk_eval.extraction import Extraction
from gantk_eval.features import Features
from gantk_eval.images import ImageSet
from gantk_eval.statistics import Statistics
from PIL import Image


class Moments:
    """A cheap extractor that counts its images: each channel's mean, deviation and corner."""

    name, weights_sha256, resize, precision, dims = "moments", "none", "none", "fp32", 6

    def __init__(self) -> None:
        self.seen = 0
        self.fails_after: int | None = None

    def features(self, images: np.ndarray) -> np.ndarray:
        if self.fails_after is not None and self.seen >= self.fails_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        x = images.astype(np.float32)
        return np.concatenate([x.mean(axis=(1, 2)), x[:, 0, 0], x.std(axis=(1, 2))[:, :1].repeat(1, 1)], axis=1)[:, :6]

    def logits(self, features: np.ndarray) -> None:
        return


def pictures(count: int, seed: int = 0, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def walk(extractor: Moments, **options: object) -> Extraction:
    settings = {"device": "cpu", "batch_size": 16, "progress": False} | options
    return Extraction({"x": extractor}, **settings)  # type: ignore[arg-type]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is saved at once."""
    monkeypatch.setattr(extraction, "SAVE_SECONDS", 0.0)


def test_an_interrupted_extraction_goes_on(impatient: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = pictures(100)
    whole = walk(Moments()).extract(ArrayImages(pixels), ["x"], "images")[0]["x"].values
    broken = Moments()
    broken.fails_after = 40
    with pytest.raises(KeyboardInterrupt):
        walk(broken).extract(ArrayImages(pixels), ["x"], "images")
    assert "the same command goes on" in capsys.readouterr().err
    for batch_size in (16, 48):  # the second finds nothing any more, for the first has finished
        second = Moments()
        again = walk(second, batch_size=batch_size).extract(ArrayImages(pixels), ["x"], "images")[0]["x"].values
        assert np.array_equal(again, whole)
        said = capsys.readouterr().err
        if batch_size == 16:
            assert second.seen == 100 - 48
            assert "48 of 100 images are there" in said
        else:
            assert second.seen == 100
            assert not said
    assert not list((tmp_path / "cache" / "partial").iterdir())


def test_parts_of_other_images_or_damaged_ones_are_not_used(impatient: None, tmp_path: Path) -> None:
    pixels = pictures(100)
    broken = Moments()
    broken.fails_after = 64
    with pytest.raises(KeyboardInterrupt):
        walk(broken).extract(ArrayImages(pixels), ["x"], "images")
    files = sorted((tmp_path / "cache" / "partial").rglob("*.npz"))
    assert len(files) == 4
    files[1].write_bytes(files[1].read_bytes()[:100])
    other = Moments()
    walk(other).extract(ArrayImages(pictures(100, seed=1)), ["x"], "images")
    assert other.seen == 100
    again = Moments()
    walk(again).extract(ArrayImages(pixels), ["x"], "images")
    assert again.seen == 100 - 48


def test_generated_images_are_never_kept(impatient: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another model may come to bear the same name; so it says that it starts anew."""
    pixels = pictures(100)
    broken = Moments()
    broken.fails_after = 40
    samples = GeneratedImages(100, lambda index: pixels[index], (8, 8, 3), identity="run 1")
    with pytest.raises(KeyboardInterrupt):
        walk(broken).extract(samples, ["x"], "images")
    assert "starts anew" in capsys.readouterr().err
    assert not (tmp_path / "cache" / "partial").exists()


def test_many_images_are_summed_up_in_constant_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "KEEP_BYTES", 1000)
    monkeypatch.setattr(extraction, "SAMPLE_IMAGES", 60)
    pixels = pictures(500)
    whole = walk(Moments()).extract(ArrayImages(pixels), ["x"], "images")[0]["x"]
    assert whole.total is None
    streaming = walk(Moments(), only_statistics=["x"])
    for _ in range(2):  # extracted, then from the cache
        found = streaming.cached(ArrayImages(pixels), "reference")["x"]
        assert len(found) == 500
        assert found.values.shape == (60, 6)
        assert found.total is not None
        exact = Statistics.of(whole.values)
        assert np.allclose(found.statistics.mean, exact.mean, rtol=1e-12)
        assert np.allclose(found.statistics.covariance, exact.covariance, rtol=1e-10, atol=1e-9)
        assert {tuple(row) for row in found.values} <= {tuple(row) for row in whole.values}
    # Whoever wants more than a Fréchet distance gets the features themselves, not the sample.
    assert len(walk(Moments()).cached(ArrayImages(pixels), "reference")["x"].values) == 500


def test_the_fid_of_streamed_features_is_that_of_kept_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(x.float(), 2).flatten(1)

    torch.jit.script(Net()).save(str(tmp_path / "net.pt"))
    reference, fake = ArrayImages(pictures(400)), ArrayImages(pictures(300, seed=1) // 2)
    options = {"extractor": tmp_path / "net.pt", "metrics": ["fd_net"], "collapse": False}
    kept = evaluate(fake, reference, **options).metrics["fd_net"]
    monkeypatch.setattr(extraction, "KEEP_BYTES", 1000)
    monkeypatch.setattr(extraction, "SAMPLE_IMAGES", 200)
    monkeypatch.setenv("GANTK_CACHE", str(tmp_path / "other"))
    streamed = evaluate(fake, reference, **options).metrics["fd_net"]
    assert streamed["value"] == pytest.approx(kept["value"], rel=1e-9)
    assert (streamed["n_fake"], streamed["n_real"]) == (300, 400)
    assert streamed["standard_error"] == pytest.approx(kept["standard_error"], rel=0.3)
    assert streamed["extrapolated"] == pytest.approx(kept["extrapolated"], rel=0.1)


@pytest.mark.slow
def test_a_set_whose_features_are_streamed_is_still_judged(
    inception_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of Inception's rows does not stand beside all of the pixels'."""
    reference, heldout = ArrayImages(pictures(34)), ArrayImages(pictures(30, seed=1))
    options = {"metrics": ["fid"], "inception_weights": inception_weights, "permutations": 1199}
    monkeypatch.setattr(extraction, "KEEP_BYTES", 1000)
    monkeypatch.setattr(extraction, "SAMPLE_IMAGES", 22)
    evaluator = Evaluator(reference, heldout, **options)  # type: ignore[arg-type]
    report = evaluator.evaluate(ArrayImages(pictures(24, seed=2)))
    (score,) = report.metrics.values()
    assert (score["n_fake"], score["n_real"], score["floor_n"]) == (24, 34, 22)
    assert report.verdict == "inconclusive"
    (why,) = [reason for reason in report.collapse["reasons"] if "lost modes cannot be judged" in reason]
    assert "only a sample of the features of inception is kept" in why
    assert report.picture is not None


def test_a_subset_of_a_sample_is_drawn_from_the_sample() -> None:
    values = np.arange(20.0)[:, None]
    sample = Features(values, Moments(), total=Statistics(50, np.zeros(1), np.ones((1, 1))))
    assert sample.subset(50) is sample
    for count in (7, 20, 40):
        drawn = sample.subset(count)
        assert drawn.total is None
        assert len(np.unique(drawn.values)) == len(drawn) == min(count, 20)


def test_statistics_and_factor_are_remembered_and_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    images = ArrayImages(pictures(50))
    first = walk(Moments()).cached(images, "reference")["x"]
    expected = first.factor
    (path,) = (tmp_path / "cache" / "statistics").iterdir()
    good = path.read_bytes()
    for bad in (good, good[:200], b""):
        path.write_bytes(bad)
        again = walk(Moments()).cached(images, "reference")["x"]
        assert np.array_equal(again.factor, expected)
        assert np.array_equal(again.statistics.covariance, first.statistics.covariance)
        assert path.read_bytes() == good
    with np.load(path) as arrays:  # statistics that were really read, not worked out again
        changed = {name: arrays[name] for name in arrays.files}
    changed["mean"] = changed["mean"] + 1.0
    np.savez(path, **changed)
    assert np.allclose(walk(Moments()).cached(images, "reference")["x"].statistics.mean, first.statistics.mean + 1.0)


def in_every_format(folder: Path, images: np.ndarray) -> dict[str, ImageSet]:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    np.save(folder / "a.npy", images)
    np.savez(folder / "a.npz", images=images)
    (folder / "a").mkdir()
    data = []
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for i, image in enumerate(images):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            data.append(buffer.getvalue())
            (folder / "a" / f"{i:05d}.png").write_bytes(data[-1])
            archive.writestr(f"{i:05d}.png", data[-1])
    pq.write_table(pa.table({"image": [{"bytes": d, "path": None} for d in data]}), folder / "a.parquet")
    return {kind: open_images(folder / f"a{kind}") for kind in (".npy", ".npz", "", ".zip", ".parquet")}


def test_formats_and_batch_sizes_give_the_same_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through matrix products, whose last bits depend on the batch that they are in."""
    import torch
    from gantk_eval.sources import as_images

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = torch.nn.Linear(192, 65), torch.nn.Linear(65, 33)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.tanh(self.first(x.flatten(1).float() / 255.0)))

    torch.jit.script(Net()).save(str(tmp_path / "net.pt"))
    reference, fake = ArrayImages(pictures(90)), pictures(83, seed=1)
    options = {"extractor": tmp_path / "net.pt", "collapse": False, "kid_subset_size": 40}
    sets: dict[str, tuple[ImageSet, int]] = {k: (s, 100) for k, s in in_every_format(tmp_path, fake).items()}
    sets |= {f"batch {size}": (ArrayImages(fake), size) for size in (1, 7, 37, 1000)}
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(fake).permute(0, 3, 1, 2))
    sets["dataset"] = (as_images(tensors, name="a dataset"), 100)
    scores = {}
    for number, (kind, (images, size)) in enumerate(sets.items()):
        monkeypatch.setenv("GANTK_CACHE", str(tmp_path / str(number)))
        report = Evaluator(reference, batch_size=size, metrics=None, **options).evaluate(images)  # type: ignore[arg-type]
        scores[kind] = {name: entry["value"] for name, entry in report.metrics.items()}
    assert {"fd_net", "kd_net", "precision_net", "vendi_net"} <= set(scores[".npy"])
    for kind, values in scores.items():
        for name, value in values.items():
            assert value == pytest.approx(scores[".npy"][name], rel=1e-9, abs=1e-12), (kind, name)


def test_networks_see_whole_blocks_whatever_the_batch_size() -> None:
    """An image is always in the same place of the same block: on other machines its bits depend on that."""
    seen: list[int] = []

    class Watched(Moments):
        def features(self, images: np.ndarray) -> np.ndarray:
            seen.append(len(images))
            return super().features(images)

    for size in (1, 7, 37, 1000):
        seen.clear()
        walk(Watched(), batch_size=size).extract(ArrayImages(pictures(83)), ["x"], "images")
        assert sum(seen) == 83
        assert all(count % 16 == 0 for count in seen[:-1]), size


def test_a_block_that_is_not_full_is_filled_up() -> None:
    from gantk_eval.extractors.blocks import in_blocks

    shapes = []

    def run(block: np.ndarray) -> np.ndarray:
        shapes.append(len(block))
        return block[:, :1, 0, 0].astype(np.float32)

    images = pictures(21)
    assert np.array_equal(in_blocks(images, 8, run, fill=True)[:, 0], images[:, 0, 0, 0])
    assert shapes == [8, 8, 8]


def test_the_key_of_features_is_all_that_they_depend_on() -> None:
    from gantk_eval.extraction import content_key

    def key(seed: int = 0, device: str = "cpu", **changes: str) -> str:
        extractor = Moments()
        for name, value in changes.items():
            setattr(extractor, name, value)
        return content_key(ArrayImages(pictures(4, seed)), extractor, device)

    others = [key(seed=1), key(device="cuda:0")]
    others += [key(**{name: "other"}) for name in ("name", "weights_sha256", "resize", "precision")]
    assert len({key(), *others}) == 7
    assert key() == key()


def test_unreadable_images_are_named_or_skipped_and_counted(tmp_path: Path) -> None:
    for i in range(6):
        Image.fromarray(pictures(1, seed=i, side=32)[0]).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:300])
    (tmp_path / "4.png").write_text("not an image")
    with pytest.raises(DataError, match=r"cannot read .*4\.png"):
        open_images(tmp_path)
    images = open_images(tmp_path, skip_unreadable=True)
    assert len(images) == 4
    assert [Path(name).name for name in images.skipped] == ["2.png", "4.png"]  # type: ignore[attr-defined]
    assert np.array_equal(images.read([2])[0], np.asarray(Image.open(tmp_path / "3.png")))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_text("no")
    with pytest.raises(DataError, match="none of the 1 images"):
        open_images(tmp_path / "bad", skip_unreadable=True)
