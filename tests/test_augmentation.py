"""DiffAugment against loops over single pixels, and that it stands in every pass of the discriminator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gantk.augmentation import DiffAugment, color, cutout, translation
from gantk.config import load_config
from gantk.draws import Draws, key_of
from gantk.training.trainer import Trainer

KINDS = ("color", "translation", "cutout")


def draw(purpose: str, rows: Tensor | None = None, dtype: torch.dtype = torch.float64) -> Draws:
    return Draws(key_of("test", purpose), torch.arange(40) if rows is None else rows, dtype)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(40, 3, 6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


def test_color(images: Tensor) -> None:
    changed = color(images, draw)
    for n in range(40):
        brightness = float(draw("brightness").uniform(low=-0.5, high=0.5)[n])
        saturation = float(draw("saturation").uniform(low=0.0, high=2.0)[n])
        contrast = float(draw("contrast").uniform(low=0.5, high=1.5)[n])
        image = images[n].numpy() + brightness
        grey = image.mean(0)
        image = np.stack([grey + saturation * (channel - grey) for channel in image])
        image = image.mean() + contrast * (image - image.mean())
        np.testing.assert_allclose(changed[n].numpy(), image, rtol=1e-12, atol=1e-12)


def test_translation(images: Tensor) -> None:
    changed = translation(images, draw)
    # An eighth of 6 and of 10, rounded, is one pixel.
    down = draw("translation.y").integers(3)[:, None] - 1
    right = draw("translation.x").integers(3)[:, None] - 1
    assert {(int(a), int(b)) for a, b in zip(down, right, strict=True)} == {
        (a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)
    }
    for n in range(40):
        for y in range(6):
            for x in range(10):
                from_y, from_x = y - int(down[n]), x - int(right[n])
                inside = 0 <= from_y < 6 and 0 <= from_x < 10
                wanted = images[n, :, from_y, from_x] if inside else torch.zeros(3, dtype=torch.float64)
                assert torch.equal(changed[n, :, y, x], wanted)


@pytest.mark.parametrize(("height", "width"), [(6, 10), (7, 8), (32, 32)])
def test_cutout(height: int, width: int) -> None:
    changed = cutout(torch.ones(40, 2, height, width, dtype=torch.float64), draw)
    areas = []
    for n in range(40):
        wanted = np.ones((height, width))
        spans = []
        for axis, size in (("y", height), ("x", width)):
            length = int(size / 2 + 0.5)
            centre = int(draw(f"cutout.{axis}").integers(size + 1 - length % 2)[n])
            spans.append([p for p in range(centre - length // 2, centre - length // 2 + length) if 0 <= p < size])
        for y in spans[0]:
            for x in spans[1]:
                wanted[y, x] = 0
        areas.append(len(spans[0]) * len(spans[1]) / (height * width))
        assert (changed[n].numpy() == wanted).all()
    # Nowhere more than a quarter, and less where the rectangle hangs over the edge.
    assert max(areas) <= 0.3
    assert min(areas) < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_flow_twice(kind: str) -> None:
    change = DiffAugment((kind,))
    rows = torch.arange(2)
    images = torch.rand(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    given = lambda x: change(x, lambda purpose: draw(purpose, rows), "fake")  # noqa: E731
    assert torch.autograd.gradcheck(given, images)
    assert torch.autograd.gradgradcheck(lambda x: given(x).pow(3), images)


def test_a_row_is_changed_the_same_way_in_any_cut(images: Tensor) -> None:
    augment = DiffAugment(KINDS)
    whole = augment(images, draw, "real")
    rows = torch.tensor([31, 4])
    torch.testing.assert_close(augment(images[rows], lambda purpose: draw(purpose, rows), "real"), whole[rows])
    assert not torch.equal(augment(images, draw, "fake"), whole), "real and fake are changed apart"
    assert not torch.equal(whole[0] - images[0], whole[1] - images[1])


def test_none_is_none_and_the_order_is_the_papers(images: Tensor) -> None:
    assert DiffAugment()(images, draw, "real") is images
    torch.testing.assert_close(
        DiffAugment(("cutout", "color"))(images, draw, "real"), DiffAugment(("color", "cutout"))(images, draw, "real")
    )


@pytest.mark.parametrize("loss", ["nonsaturating", "relativistic"])
def test_it_stands_in_every_pass_of_the_discriminator(loss: str, project_root: Path) -> None:
    config = load_config(
        project_root / "configs" / "tiny.yaml",
        [
            "objective.augment=[color, translation, cutout]",
            f"objective.loss={loss}",
            "objective.regularization={r1: {gamma: 1, every: 2}}",
            "train.precision=float64",
            "network.batch_norm=false",
        ],
    )
    trainer = Trainer(config)
    seen: list[Tensor] = []
    trainer.runner.bare["discriminator"].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    real: dict[str, Tensor] = {}
    fakes: list[Tensor] = []
    trainer.runner.bare["generator"].register_forward_hook(lambda module, given, output: fakes.append(output.detach()))
    following = trainer.batches.next

    def remember(phase: str, *arguments: object) -> object:
        for batch in following(phase, *arguments):  # type: ignore[arg-type]
            real[phase] = batch.images
            yield batch

    trainer.batches.next = remember  # type: ignore[method-assign,assignment]
    trainer.train_step()

    def by_hand(images: Tensor, phase: str, what: str) -> Tensor:
        def of(purpose: str) -> Draws:
            key = key_of(0, "train", 0, phase, 0, f"augment.{what}.{purpose}")
            return Draws(key, torch.arange(32), torch.float64)

        return cutout(translation(color(images, of), of), of)

    passes = [
        by_hand(real["d"], "d", "real"),
        by_hand(fakes[0], "d", "fake"),
        by_hand(real["r1"], "r1", "real"),
        by_hand(fakes[-1], "g", "fake"),
    ]
    if loss == "relativistic":
        assert not torch.equal(real["d"], real["g"]), "the generator's step plays on fresh real images"
        passes.append(by_hand(real["g"], "g", "real"))
    assert len(seen) == len(passes)
    for ours, wanted in zip(seen, passes, strict=True):
        torch.testing.assert_close(ours, wanted)
    assert seen[3].requires_grad, "the generator's gradient flows back through the changes"
