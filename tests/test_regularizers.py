"""Each penalty against its formula worked out by other means: closed forms, a slope for each sample, finite differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gantk.config import load_config
from gantk.draws import Draws, key_of
from gantk.errors import ConfigError
from gantk.objectives import Batch
from gantk.regularizers import (
    PENALTIES,
    RegularizationConfig,
    clip_weights,
    interpolated,
    one_centred,
    slopes,
    zero_centred,
)
from gantk.training.trainer import Trainer

QUICK = ("train.kimg=0.128", "evaluate.every_kimg=99", "train.log_every_kimg=0.032", "network.width=2")
PLAIN_D = "network.discriminator_batch_norm=false"
ALL = "objective.regularization={r1: {gamma: 3}, r2: {gamma: 5}, gradient_penalty: {weight: 7}}"


def trainer_of(tiny: Path, *overrides: str, precision: str = "float64") -> Trainer:
    trainer = Trainer(load_config(tiny, [*QUICK, f"train.precision={precision}", *overrides]))
    generator = torch.Generator().manual_seed(1)
    for parameter in trainer.runner.bare["discriminator"].parameters():
        # As if trained: with the initial weights all slopes are next to nothing.
        parameter.data.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return trainer


@pytest.fixture
def tiny(project_root: Path) -> Path:
    return project_root / "configs" / "tiny.yaml"


def first_batch(trainer: Trainer, seen: int = 0) -> Batch:
    trainer.batches.begin_step(seen)
    (batch,) = trainer.batches.next("d", 0, 0, True)
    return batch


def slope_of_each(network: nn.Module, images: Tensor) -> Tensor:
    """The slope of every sample, one at a time, as a differentiable tensor."""
    rows = []
    for image in images.detach():
        one = image[None].clone().requires_grad_()
        rows.append(torch.autograd.grad(network(one, None).squeeze(), one, create_graph=True)[0])
    return torch.cat(rows)


# Formulas


def test_a_linear_critic_has_penalties_in_closed_form() -> None:
    """D(x) = w·x: R1 = γ/2 ‖w‖² with derivative γ w; the gradient penalty λ(‖w‖ − 1)² with 2λ(‖w‖ − 1) w/‖w‖."""
    weight = torch.randn(12, dtype=torch.float64).requires_grad_()
    images = torch.randn(5, 3, 2, 2, dtype=torch.float64).requires_grad_()
    slope = slopes(images.flatten(1) @ weight, images)
    norm = weight.detach().norm()
    for value, wanted, derivative in (
        (zero_centred(slope, 0.3), 0.15 * norm**2, 0.3 * weight.detach()),
        (one_centred(slope, 10.0), 10 * (norm - 1) ** 2, 20 * (norm - 1) * weight.detach() / norm),
        (one_centred(slope, 10.0, 0.0), 10 * norm**2, 20 * weight.detach()),
    ):
        torch.testing.assert_close(value, wanted.expand(5))
        (gradient,) = torch.autograd.grad(value.mean(), weight, retain_graph=True)
        torch.testing.assert_close(gradient, derivative)


def test_interpolated_points_lie_between() -> None:
    real, fake = torch.full((3, 1, 2, 2), 10.0), torch.zeros(3, 1, 2, 2)
    points = interpolated(real, fake, torch.tensor([0.0, 0.25, 1.0]))
    assert points[:, 0, 0, 0].tolist() == [0.0, 2.5, 10.0]
    assert (points == points[:, :, :1, :1]).all()


def test_a_slope_of_nothing_has_a_finite_gradient() -> None:
    weight = torch.zeros(4, requires_grad=True)
    images = torch.randn(2, 1, 2, 2, requires_grad=True)
    slope = slopes(images.flatten(1) @ weight, images)
    (one_centred(slope, 1.0) + zero_centred(slope, 1.0)).mean().backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


def test_every_key_has_its_penalty() -> None:
    keys = set(RegularizationConfig.model_fields)
    assert keys - set(PENALTIES) == {"weight_clip"}


# In the game


def by_hand(trainer: Trainer, batch: Batch) -> dict[str, Tensor]:
    """The three penalties of `ALL` for a batch, from the slopes of single samples."""
    network = trainer.runner.bare["discriminator"]
    with torch.no_grad():
        fake = trainer.objective.fake(trainer.runner.bare, batch)  # type: ignore[operator]
    share = Draws(key_of(0, "train", 0, "d", 0, "interpolation"), batch.index, torch.float64).uniform(1, 1, 1)
    between = share * batch.images + (1 - share) * fake

    def squares(images: Tensor) -> Tensor:
        return slope_of_each(network, images).pow(2).sum((1, 2, 3))

    return {
        "r1": 3 / 2 * squares(batch.images).mean(),
        "r2": 5 / 2 * squares(fake).mean(),
        "gradient_penalty": 7 * (squares(between).sqrt() - 1).pow(2).mean(),
    }


def test_folded_penalties_are_those_computed_sample_by_sample(tiny: Path) -> None:
    trainer = trainer_of(tiny, PLAIN_D, ALL)
    batch = first_batch(trainer)
    parameters = list(trainer.runner.bare["discriminator"].parameters())
    wanted = by_hand(trainer, batch)
    terms = trainer.objective.discriminator_loss(trainer.runner.bare, batch)  # type: ignore[operator]
    for name, value in wanted.items():
        assert value > 0.1, "a test on slopes that are nothing would show nothing"
        torch.testing.assert_close(terms.log[name], value.detach())
    total = sum(wanted.values())
    torch.testing.assert_close(terms.loss.detach() - terms.log["loss"], total.detach())  # type: ignore[union-attr]
    # The whole gradient: the same game without penalties, and the penalties by hand.
    bare = trainer_of(tiny, PLAIN_D, "name=bare")
    network = bare.runner.bare["discriminator"]
    network.load_state_dict(trainer.runner.bare["discriminator"].state_dict())
    alone = torch.autograd.grad(
        bare.objective.discriminator_loss(bare.runner.bare, first_batch(bare)).loss,  # type: ignore[operator]
        list(network.parameters()),
    )
    penalties = torch.autograd.grad(total, parameters, allow_unused=True)  # type: ignore[arg-type]
    for ours, one, other in zip(torch.autograd.grad(terms.loss, parameters), alone, penalties, strict=True):
        torch.testing.assert_close(ours, one + (0 if other is None else other))


@pytest.mark.parametrize("name", PENALTIES)
def test_gradients_are_those_of_finite_differences(name: str, tiny: Path) -> None:
    trainer = trainer_of(tiny, PLAIN_D, ALL)
    batch = first_batch(trainer)
    network = trainer.runner.bare["discriminator"]

    def penalty() -> Tensor:
        return trainer.objective.discriminator_loss(trainer.runner.bare, batch).log[name]  # type: ignore[operator]

    weight = next(network.parameters())
    terms = by_hand(trainer, batch)[name]
    (gradient,) = torch.autograd.grad(terms, weight)
    for place in (0, 7, 31):
        was = weight.data.flatten()[place].item()
        ends = []
        for step in (1e-6, -1e-6):
            weight.data.view(-1)[place] = was + step
            ends.append(penalty().item())
        weight.data.view(-1)[place] = was
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(gradient.flatten()[place].item(), rel=1e-4)


def updates(trainer: Trainer) -> Iterator[dict[str, Tensor]]:
    """Each phase's gradients, before its update, over one step."""
    kept: list[tuple[str, dict[str, Tensor]]] = []
    update = trainer.runner._update

    def keep(phase: Any, player: Any) -> None:
        kept.append((phase.name, {n: p.grad.clone() for n, p in player.named.items()}))
        update(phase, player)

    trainer.runner._update = keep  # type: ignore[method-assign]
    trainer.train_step()
    yield from (gradients for name, gradients in kept if name == "r1")


def test_a_lazy_penalty_is_its_own_update_with_so_many_times_the_gradient(tiny: Path) -> None:
    trainer = trainer_of(tiny, PLAIN_D, "objective.regularization.r1={gamma: 3, every: 4}")
    (phase,) = [phase for phase in trainer.objective.phases if phase.name == "r1"]
    assert (phase.every, phase.plays_with, set(trainer.runner.players)) == (4, "d", {"d", "g"})
    assert [p.name for p in trainer.objective.phases] == ["d", "r1", "g"]
    # Real images alone are drawn upon, so the images of the step's first phase are all there is to know.
    trainer.runner.players["d"].optimizer.param_groups[0]["lr"] = 0.0
    trainer.runner.players["d"].settings = trainer.runner.players["d"].settings.model_copy(update={"lr": 0.0})
    images = first_batch(trainer).images
    trainer.batches.cursor = 0
    (gradients,) = updates(trainer)
    network = trainer.runner.bare["discriminator"]
    wanted = torch.autograd.grad(
        4 * 1.5 * slope_of_each(network.requires_grad_(), images).pow(2).sum((1, 2, 3)).mean(),
        list(network.parameters()),
        allow_unused=True,
    )
    for ours, by_hand in zip(gradients.values(), wanted, strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if by_hand is None else by_hand)
    assert trainer.step == 1
    assert not list(updates(trainer)), "it is due in every fourth step"


def test_gamma_follows_the_images_seen(tiny: Path) -> None:
    schedule = "{type: linear, start_kimg: 1, end_kimg: 3, final: 0.1}"
    trainer = trainer_of(tiny, PLAIN_D, f"objective.regularization.r1={{gamma: 2, schedule: {schedule}}}")
    values = {}
    for seen in (0, 1000, 2000, 3000, 9000):
        batch = first_batch(trainer, seen)
        trainer.batches.cursor = 0
        values[seen] = trainer.objective.discriminator_loss(trainer.runner.bare, batch).log["r1"].item()  # type: ignore[operator]
    for seen, factor in {1000: 1.0, 2000: 0.55, 3000: 0.1, 9000: 0.1}.items():
        assert values[seen] == pytest.approx(factor * values[0], rel=1e-9)
    # And the trainer tells the batches.
    trainer.train_step()
    trainer.train_step()
    assert trainer.batches.seen == 32


@pytest.mark.parametrize("every", [1, 2])
def test_penalties_run_in_full_precision(every: int, tiny: Path) -> None:
    """Under bf16 the adversarial passes are in bf16, but for what a penalty is taken of, which is in float32."""
    trainer = trainer_of(
        tiny, PLAIN_D, f"objective.regularization={{r1: {{gamma: 1, every: {every}}}}}", precision="bf16"
    )
    seen: list[tuple[bool, torch.dtype]] = []
    network = trainer.runner.bare["discriminator"]
    network.layers[0].linear.register_forward_hook(  # type: ignore[union-attr,index]
        lambda module, given, output: seen.append((given[0].requires_grad, output.dtype))
    )
    trainer.train_step()
    # In the D phases real images take gradients only where a penalty is taken; in G's phase fakes do as well.
    assert (True, torch.float32) in seen
    assert (False, torch.bfloat16) in seen
    assert (False, torch.float32) not in seen
    assert seen[-1] == (True, torch.bfloat16), "the generator's pass"


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [
        ((), True),
        (("objective.regularization.weight_clip=0.03",), False),
        ((PLAIN_D, "objective.regularization.gradient_penalty={}"), False),
        ((PLAIN_D, "network.spectral_norm=[discriminator]"), False),
    ],
)
def test_wasserstein_without_a_bound_is_warned_of(
    overrides: tuple[str, ...], warned: bool, tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer_of(tiny, "objective.loss=wasserstein", *overrides)
    assert caplog.text.count("bounds the discriminator's slope") == int(warned)


def test_clipped_weights_stay_clipped(tiny: Path) -> None:
    lazy = "objective.regularization={weight_clip: 0.03, r1: {gamma: 100, every: 1}}"
    for name, overrides in {
        "clip": ("objective.regularization.weight_clip=0.03",),
        "with-penalty": (PLAIN_D, lazy.replace("every: 1", "every: 2")),
    }.items():
        trainer = trainer_of(tiny, f"name={name}", "objective.loss=wasserstein", "optimizer.lr=0.01", *overrides)
        critic, generator = (trainer.runner.bare[n] for n in ("discriminator", "generator"))
        outside: list[float] = []
        update = trainer.runner._update

        def watch(phase: Any, player: Any, update: Callable[..., None] = update) -> None:
            update(phase, player)
            outside.append(max(p.abs().max().item() for p in critic.parameters()))  # noqa: B023

        trainer.runner._update = watch  # type: ignore[method-assign]
        for _ in range(2):
            trainer.train_step()
            assert max(p.abs().max().item() for p in critic.parameters()) == 0.03
        assert max(p.abs().max().item() for p in generator.parameters()) > 0.03, "the generator is not clipped"
        assert max(outside) > 0.03, "without clipping they would have left"


def test_clipping_is_a_clamp() -> None:
    network = nn.Linear(3, 1, bias=False)
    network.weight.data = torch.tensor([[-5.0, 0.005, 5.0]])
    clip_weights(network, 0.01)
    assert network.weight.tolist() == [[pytest.approx(-0.01), pytest.approx(0.005), pytest.approx(0.01)]]


@pytest.mark.slow
def test_penalties_go_with_compilation(tiny: Path) -> None:
    """PyTorch cannot differentiate compiled code twice: the penalty's pass is not compiled, and gives the same."""
    values = {}
    for compiled in (False, True):
        trainer = trainer_of(
            tiny, PLAIN_D, ALL.replace("gamma: 5", "gamma: 5, every: 2"), f"train.compile={compiled}",
            f"name=compiled-{compiled}",
        )  # fmt: skip
        trainer.train_step()
        trainer.train_step()
        values[compiled] = trainer.read_meter()
    assert values[False].keys() == values[True].keys()
    for name, value in values[False].items():
        assert values[True][name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


# Misfits


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ("objective.regularization.gradient_penalty={}",),
            r"regularization\.gradient_penalty.*batch norm.*set `network\.discriminator_batch_norm` to false",
        ),
        (("objective.regularization.r1.gamma=1",), r"regularization\.r1.*batch norm.*`network\.discriminator_batch_norm`"),
        (("objective.regularization.r2={}",), r"objective\.regularization\.r2\.gamma` is missing"),
        (("objective.regularization.r3.gamma=1",), r"`objective\.regularization\.r3` is not a key \(there are: gradient_penalty, r1"),
        (
            (PLAIN_D, "objective.regularization.r1={gamma: 1, schedule: {type: cosine}}"),
            r"objective\.regularization\.r1\.schedule.*needs `end_kimg`",
        ),
        (("objective.augment=[colour]",), r"`objective\.augment\.0`.*did you mean `color`\?"),
    ],
)  # fmt: skip
def test_misfits_get_a_sentence(overrides: tuple[str, ...], sentence: str, tiny: Path) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        # At 16×16 the discriminator has a second layer, and with it batch norm.
        load_config(tiny, ["data.resolution=16", *overrides])
    assert caught.value.exit_code == 2


def test_looking_for_misfits_draws_no_random_numbers(tiny: Path) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    load_config(tiny)
    assert torch.equal(torch.rand(4), wanted)
