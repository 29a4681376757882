"""Each adversarial loss against its formula written out with sigmoid and log, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gantk.losses import LOSSES

# name: loss on real, on fake, of the generator; as the papers write them.
PLAIN: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "nonsaturating": (
        lambda x: -torch.log(torch.sigmoid(x)),
        lambda x: -torch.log(1 - torch.sigmoid(x)),
        lambda x: -torch.log(torch.sigmoid(x)),
    ),
    "minimax": (
        lambda x: -torch.log(torch.sigmoid(x)),
        lambda x: -torch.log(1 - torch.sigmoid(x)),
        lambda x: torch.log(1 - torch.sigmoid(x)),
    ),
    "least_squares": (lambda x: (x - 1) ** 2 / 2, lambda x: x**2 / 2, lambda x: (x - 1) ** 2 / 2),
    "hinge": (
        lambda x: torch.maximum(torch.zeros_like(x), 1 - x),
        lambda x: torch.maximum(torch.zeros_like(x), 1 + x),
        lambda x: -x,
    ),
    "wasserstein": (lambda x: -x, lambda x: x, lambda x: -x),
}


def parts(name: str) -> list[Callable[[Tensor], Tensor]]:
    loss = LOSSES[name]
    zero = torch.zeros(1, dtype=torch.float64)
    return [
        lambda x: loss.discriminator(x, zero)[0],
        lambda x: loss.discriminator(zero, x)[1],
        loss.generator,
    ]


def test_every_loss_is_tested() -> None:
    assert set(PLAIN) == {name for name, loss in LOSSES.items() if not loss.paired}
    assert {name for name, loss in LOSSES.items() if loss.paired} == {"relativistic"}


@pytest.mark.parametrize("part", [0, 1, 2], ids=["real", "fake", "generator"])
@pytest.mark.parametrize("name", PLAIN)
def test_value_and_gradient_are_those_of_the_formula(name: str, part: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # The plain form keeps its digits up to here.
    logits = (torch.rand(200, generator=generator, dtype=torch.float64) * 20 - 10).requires_grad_()
    ours, plain = parts(name)[part](logits), PLAIN[name][part](logits)
    assert ours.shape == (200,)
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)
    (slope,) = torch.autograd.grad(ours.sum(), logits)
    (wanted,) = torch.autograd.grad(plain.sum(), logits)
    torch.testing.assert_close(slope, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", PLAIN)
def test_huge_logits_neither_overflow_nor_lose_the_gradient(name: str, dtype: torch.dtype) -> None:
    loss, zero = LOSSES[name], torch.zeros(1, dtype=dtype)
    for sign in (-1, 1):
        for part in range(3):
            logits = torch.full((1,), sign * 1e4, dtype=dtype, requires_grad=True)
            value = (loss.discriminator(logits, zero)[0], loss.discriminator(zero, logits)[1], loss.generator(logits))[
                part
            ]
            value.sum().backward()
            assert value.isfinite().all()
            assert logits.grad is not None
            assert logits.grad.isfinite().all()


def test_a_generator_that_is_seen_through_still_learns() -> None:
    """Where the sigmoid has saturated, the non-saturating gradient is −1, and that of the minimax loss is 0."""
    slopes = {}
    for name in ("nonsaturating", "minimax"):
        logits = torch.full((1,), -50.0, requires_grad=True)
        LOSSES[name].generator(logits).sum().backward()
        assert logits.grad is not None
        slopes[name] = float(logits.grad)
    assert slopes["nonsaturating"] == -1
    assert abs(slopes["minimax"]) < 1e-20


def test_only_cross_entropies_make_probabilities() -> None:
    assert {name for name, loss in LOSSES.items() if loss.probabilistic} == {"nonsaturating", "minimax"}


def test_relativistic_pairs_are_the_papers() -> None:
    """Each real sample against its fake: both players' losses and slopes, with sigmoid and log."""
    generator = torch.Generator().manual_seed(0)
    real, fake = (
        (torch.rand(200, generator=generator, dtype=torch.float64) * 10 - 5).requires_grad_() for _ in range(2)
    )
    loss = LOSSES["relativistic"]
    on_pairs, on_fake = loss.discriminator(real, fake)
    for ours, plain in (
        (on_pairs + on_fake, -torch.log(torch.sigmoid(real - fake))),
        (loss.generator(fake, real), -torch.log(torch.sigmoid(fake - real))),
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)
        slopes = [torch.autograd.grad(value.sum(), (real, fake), retain_graph=True) for value in (ours, plain)]
        for one, other in zip(*slopes, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    # Logits mean nothing by themselves: adding to all of them changes nothing.
    torch.testing.assert_close(loss.generator(fake + 7, real + 7), loss.generator(fake, real))


def test_relativistic_pairs_do_not_overflow() -> None:
    loss = LOSSES["relativistic"]
    for sign in (-1.0, 1.0):
        fake = torch.full((1,), sign * 1e4, requires_grad=True)
        value = loss.discriminator(-fake, fake)[0] + loss.generator(fake, -fake)
        value.sum().backward()
        assert value.isfinite().all()
        assert fake.grad is not None
        assert fake.grad.isfinite().all()
