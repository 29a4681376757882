"""What `evaluate` takes: paths, arrays, tensors, datasets, functions, and a stream of batches: the same images, the same scores."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gantk_eval import ArrayImages, DataError, StreamingEvaluator, UserError, as_images, evaluate
from gantk_eval.sources import as_pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from torch.utils.data import TensorDataset

PIXELS = np.random.default_rng(0).integers(0, 256, (120, 8, 10, 3), dtype=np.uint8)
LABELS = np.arange(120) % 3
OPTIONS: dict[str, Any] = {
    "metrics": ["fd_pixel_pca", "kd_pixel_pca", "vendi"],
    "collapse": False,
    "kid_subset_size": 20,
}


def nchw(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def floats(pixels: np.ndarray) -> torch.Tensor:
    """As a generator gives them: the middle of each grey level, in [-1, 1]."""
    return ((nchw(pixels).double() + 0.5 - 128) / 127.5).clamp(-1, 1)


class Dicts:
    """A Hugging Face dataset in small."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.features = {"label": type("ClassLabel", (), {"names": ["a", "b", "c"]})()}

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"img": Image.fromarray(self.pixels[i]), "label": int(LABELS[i])}


def sources(folder: Path) -> dict[str, Any]:
    for number, image in enumerate(PIXELS):
        Image.fromarray(image).save(folder / f"{number:04d}.png")
    return {
        "folder": folder,
        "text": str(folder),
        "array": PIXELS,
        "tensor": nchw(PIXELS),
        "pair": (PIXELS, LABELS),
        "set": ArrayImages(PIXELS),
        "torch dataset": TensorDataset(nchw(PIXELS), torch.from_numpy(LABELS)),
        "dicts": Dicts(PIXELS),
        "list": [Image.fromarray(image) for image in PIXELS],
        "function": lambda index: PIXELS[index],
    }


def test_every_source_gives_the_same_scores(tmp_path: Path) -> None:
    expected = evaluate(PIXELS[:60], PIXELS[60:], **OPTIONS).metrics
    given_sources = sources(tmp_path)
    for name, source in given_sources.items():
        images = as_images(source, samples=120)
        assert np.array_equal(images.read(np.arange(120)), PIXELS), name
    found = evaluate(lambda index: PIXELS[index], PIXELS[60:], samples=60, **OPTIONS)
    assert found.metrics == expected
    assert evaluate(floats(PIXELS[:60]), floats(PIXELS[60:]), value_range=(-1, 1), **OPTIONS).metrics == expected
    dicts = as_images(given_sources["dicts"])
    assert dicts.class_names == ("a", "b", "c")
    assert dicts.labels is not None
    assert dicts.labels.tolist() == LABELS.tolist()


@settings(max_examples=60, deadline=None)
@given(
    pixels=hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3])),
    ),
    span=st.sampled_from([(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)]),
)
def test_bytes_survive_floats_and_layouts_of_any_shape(pixels: np.ndarray, span: tuple[float, float]) -> None:
    assert np.array_equal(as_pixels(pixels), pixels)
    assert np.array_equal(as_pixels(nchw(pixels)), pixels)
    low, high = span
    carried = (floats(pixels) + 1) / 2 * (high - low) + low
    assert np.array_equal(as_pixels(carried.float(), value_range=span), pixels)


@pytest.mark.parametrize(
    ("images", "value_range", "words"),
    [
        (torch.rand(2, 3, 4, 4), None, "value_range"),
        (torch.full((2, 3, 4, 4), 1.004), (-1, 1), "from 1.004 to 1.004, outside the stated range from -1 to 1"),
        (torch.full((2, 3, 4, 4), -0.5), (0, 1), "outside the stated range from 0 to 1"),
        (torch.full((2, 3, 4, 4), float("nan")), (-1, 1), "NaN"),
        (np.zeros((2, 4, 4, 3), np.int64), None, "uint8"),
        (torch.zeros(2, 4, 4, 2, dtype=torch.uint8), None, "N×C×H×W"),
        (np.zeros((4,), np.uint8), None, "shape"),
    ],
)
def test_what_is_no_image_is_refused(images: Any, value_range: tuple[float, float] | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        as_pixels(images, value_range=value_range)


def test_rounding_is_let_pass() -> None:
    assert as_pixels(torch.full((1, 1, 1, 1), 1.00001), value_range=(-1, 1)).item() == 255


def test_datasets_that_do_not_fit_are_named() -> None:
    with pytest.raises(DataError, match=r"item 1 of images has shape \(4, 5, 3\)"):
        as_images([PIXELS[0][:4, :4], PIXELS[0][:4, :5]])
    with pytest.raises(DataError, match="labels for 1 of 2"):
        as_images([(PIXELS[0], 1), (PIXELS[1],)])
    with pytest.raises(DataError, match="it has text"):
        as_images([{"text": "x"}])
    with pytest.raises(DataError, match="empty"):
        as_images([])
    with pytest.raises(DataError, match="how many samples"):
        as_images(lambda index: PIXELS[index])
    with pytest.raises(DataError, match="must return uint8"):
        as_images(lambda index: PIXELS[index] / 255, samples=3)
    with pytest.raises(DataError, match="is a int"):
        as_images(3)  # type: ignore[arg-type]


def test_a_stream_of_any_batches_gives_the_scores_of_the_whole() -> None:
    expected = evaluate(PIXELS[:60], PIXELS[60:], **OPTIONS).metrics
    stream = StreamingEvaluator(PIXELS[60:], **OPTIONS)
    for sizes in ([60], [7, 50, 3], [1] * 60):
        stream.reset()
        for batch in np.split(PIXELS[:60], np.cumsum(sizes)[:-1]):
            stream.update(nchw(batch))
        found = stream.compute()
        for name, entry in expected.items():
            assert found.metrics[name]["value"] == pytest.approx(entry["value"], rel=1e-9), name
    shuffled = np.random.default_rng(0).permutation(60)
    stream.reset()
    stream.update(PIXELS[:60][shuffled], index=shuffled)
    assert stream.compute().metrics["kd_pixel_pca"]["value"] == pytest.approx(expected["kd_pixel_pca"]["value"])


def test_a_stream_refuses_what_does_not_fit() -> None:
    stream = StreamingEvaluator(PIXELS, value_range=(-1, 1), **OPTIONS)
    with pytest.raises(DataError, match="at least 2"):
        stream.compute()
    with pytest.raises(DataError, match="4×4"):
        stream.update(torch.zeros(2, 3, 4, 4))
    with pytest.raises(DataError, match="outside the stated range"):
        stream.update(torch.full((2, 3, 8, 10), 2.0))
    stream.update(floats(PIXELS[:30]))
    with pytest.raises(UserError, match="every batch or with none"):
        stream.update(floats(PIXELS[:30]), labels=LABELS[:30])
    stream.reset()
    with pytest.raises(DataError, match="shape"):
        stream.update(floats(PIXELS[:30]), labels=LABELS[:29])


def test_labels_in_a_stream_are_used() -> None:
    options = {**OPTIONS, "metrics": ["fd_pixel_pca_per_class"]}
    stream = StreamingEvaluator((PIXELS[60:], LABELS[60:]), **options)
    for part in (slice(0, 20), slice(20, 60)):
        stream.update(PIXELS[part], labels=torch.from_numpy(LABELS[part]))
    whole = evaluate((PIXELS[:60], LABELS[:60]), (PIXELS[60:], LABELS[60:]), **options)
    name = "fd_pixel_pca_per_class"
    assert stream.compute().metrics[name]["value"] == pytest.approx(whole.metrics[name]["value"], rel=1e-9)


WORKER = """
import json, sys
import numpy as np
import torch.distributed as dist
from gantk_eval import StreamingEvaluator
rank, world = int(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", init_method=sys.argv[3], world_size=world, rank=rank)
pixels = np.random.default_rng(0).integers(0, 256, (120, 8, 10, 3), dtype=np.uint8)
stream = StreamingEvaluator(pixels[60:], metrics=["fd_pixel_pca", "kd_pixel_pca", "vendi"], collapse=False, kid_subset_size=20)
# Rank 0 sees three batches, rank 1 one, and in another order than the index.
mine = [np.arange(40, 60), np.arange(0, 10), np.arange(25, 40)] if rank == 0 else [np.arange(10, 25)]
for index in mine:
    stream.update(pixels[index], index=index)
first = stream.compute().metrics
stream.reset()
if rank == 0:
    for index in np.split(np.arange(60), 4):
        stream.update(pixels[index])
print(json.dumps([first, stream.compute().metrics]))
"""


def test_a_stream_over_two_ranks_with_uneven_batches(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    ranks = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(r), "2", address], stdout=subprocess.PIPE, text=True)
        for r in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=100)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    expected = evaluate(PIXELS[:60], PIXELS[60:], **OPTIONS).metrics
    for output in outputs:
        for metrics in json.loads(output.strip().splitlines()[-1]):
            for name, entry in expected.items():
                assert metrics[name]["value"] == pytest.approx(entry["value"], rel=1e-9), name
