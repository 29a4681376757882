"""Regularizers of a discriminator: penalties on the slope of its logits, and the clipping of its weights.

A penalty needs the derivative of the logits by the images inside a loss, which is differentiated again: in full precision
(a slope loses its digits in bfloat16), and uncompiled (`torch.compile` cannot differentiate twice). It goes through the
network that its phase trains, wrapped for distribution, so that its gradient is averaged over processes with the rest.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from gantk.config.schema import ScheduleConfig, Section
from gantk.errors import ConfigError
from gantk.networks.layers import spectral_norms
from gantk.objectives.base import Batch, Networks, Phase, Terms
from gantk.schedules import schedule_factor

Critic = Callable[[Tensor], Tensor]
"""Images [N, C, H, W] to logits [N], each of its own image alone (or [N / m], each of m neighbours)."""
What = Literal["real", "fake", "between"]
"""Which images a penalty is taken at."""


# Formulas


def slopes(logits: Tensor, images: Tensor) -> Tensor:
    """The derivative of each logit by its own image, of the shape of `images`, itself differentiable."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient


def zero_centred(slope: Tensor, gamma: float) -> Tensor:
    """½ γ ‖∇D(x)‖² of each sample, summed over channels and pixels, [N]; Mescheder et al. 2018, equations 9 and 10."""
    return 0.5 * gamma * slope.square().flatten(1).sum(1)


def one_centred(slope: Tensor, weight: float, target: float = 1.0) -> Tensor:
    """λ (‖∇D(x)‖ − 1)² of each sample, [N]; Gulrajani et al. 2017, equation 3."""
    return weight * (torch.linalg.vector_norm(slope.flatten(1), dim=1) - target).square()


def interpolated(real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """ε x + (1 − ε) G(z), with a share ε in [0, 1] for each sample, [N]; Gulrajani et al. 2017, algorithm 1."""
    return torch.lerp(fake, real, share.reshape(-1, *[1] * (real.dim() - 1)))


@torch.no_grad()
def clip_weights(network: nn.Module, limit: float) -> None:
    """Every parameter into [−limit, limit]; Arjovsky et al. 2017, algorithm 1."""
    parameters: list[Tensor] = [*network.parameters()]
    torch._foreach_clamp_min_(parameters, -limit)
    torch._foreach_clamp_max_(parameters, limit)


# Config


class PenaltyConfig(Section):
    every: int = Field(1, ge=1)
    """1: part of each of the discriminator's updates. k: an update of its own in every k-th step, by the same optimiser,
    with k times the penalty (lazy regularisation; Karras et al. 2020, section 3.1)."""
    schedule: ScheduleConfig = ScheduleConfig()
    """A factor on the penalty, driven by the images seen, as for learning rates; its `end_kimg` must be given."""

    @field_validator("schedule")
    @classmethod
    def _ends(cls, value: ScheduleConfig) -> ScheduleConfig:
        if value.type != "constant" and value.end_kimg is None:
            raise ValueError(f"`type: {value.type}` needs `end_kimg` here: give the thousand images at which it ends")
        return value


class GradientPenaltyConfig(PenaltyConfig):
    """WGAN-GP's, at points between real and generated images."""

    weight: float = Field(10.0, gt=0)
    """The paper's λ."""
    target: float = Field(1.0, ge=0)
    """The norm that the slope is drawn to."""


class ZeroCentredConfig(PenaltyConfig):
    """R1 at real images, R2 at generated ones."""

    gamma: float = Field(gt=0)
    """The penalty is γ/2 times the squared norm of the slope, summed over channels and pixels."""


class RegularizationConfig(Section):
    gradient_penalty: GradientPenaltyConfig | None = None
    """Gulrajani et al. 2017; for the `wasserstein` loss."""
    r1: ZeroCentredConfig | None = None
    """Mescheder et al. 2018, at real images."""
    r2: ZeroCentredConfig | None = None
    """The same at generated images."""
    weight_clip: float | None = Field(None, gt=0)
    """Clip every weight of the discriminator to this size after each of its updates (WGAN's; 0.01 in the paper)."""


@dataclass(frozen=True)
class _Penalty:
    at: What
    value: Callable[[Tensor, Any], Tensor]
    """(slope, its config) to the penalty of each sample, [N]."""


PENALTIES: Mapping[str, _Penalty] = {
    "gradient_penalty": _Penalty("between", lambda slope, config: one_centred(slope, config.weight, config.target)),
    "r1": _Penalty("real", lambda slope, config: zero_centred(slope, config.gamma)),
    "r2": _Penalty("fake", lambda slope, config: zero_centred(slope, config.gamma)),
}
"""By their keys in `RegularizationConfig`."""


# In a game


@dataclass(frozen=True)
class Judged:
    """Images and the discriminator's logits on them. Where the images take gradients, a penalty can share the pass."""

    images: Tensor
    logits: Tensor


class Regularization:
    """What a game's discriminator is held in check with; without any setting it does nothing.

    Args:
        config: its section of the game's config.
        discriminator: checked for layers that a penalty cannot go through.
        critic: from the networks, the batch and the kind of images to the critic of the adversarial loss.
        fake: images generated for a batch, [N, C, H, W].
        path: of `config`, for sentences.

    Raises:
        ConfigError: for a penalty with batch norm in the discriminator, where a logit depends on the whole batch.
    """

    def __init__(
        self,
        config: RegularizationConfig,
        discriminator: nn.Module,
        critic: Callable[[Networks, Batch, What], Critic],
        fake: Callable[[Networks, Batch], Tensor],
        path: str = "objective.regularization",
    ) -> None:
        self.config, self.critic, self.fake = config, critic, fake
        self.penalties: dict[str, Any] = {
            name: settings for name in PENALTIES if (settings := getattr(config, name)) is not None
        }
        self.folded = {name: settings for name, settings in self.penalties.items() if settings.every == 1}
        if self.penalties and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in discriminator.modules()):
            raise ConfigError(
                f"`{path}.{next(iter(self.penalties))}` is of the slope of each image's own logit, and the discriminator has "
                "batch norm, which mixes the images of a batch: set `network.discriminator_batch_norm` to false"
            )
        self.bounds_slope = (
            bool(self.penalties) or config.weight_clip is not None or bool(spectral_norms(discriminator))
        )
        """Whether anything keeps the discriminator from growing steeper without end, as Wasserstein's loss wants."""

    def judge(self, networks: Networks, batch: Batch, images: Tensor, what: What) -> Judged:
        """The critic's pass over `images`, in such a way that a penalty in the same update can use it."""
        critic = self.critic(networks, batch, what)
        shared = any(PENALTIES[name].at == what for name in self.folded)
        if not shared or torch.is_autocast_enabled(images.device.type):
            return Judged(images, critic(images))
        return _judge_in_full(critic, images)

    def penalty(self, networks: Networks, batch: Batch, real: Judged, fake: Judged) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the penalties that are part of each update, a scalar, and each of them for the log."""
        total, log = real.logits.new_zeros(()), {}
        for name in self.folded:
            known = {"real": real, "fake": fake}.get(PENALTIES[name].at)
            if known is None or not known.images.requires_grad:
                known = self._judge_anew(name, networks, batch, real.images, fake.images)
            value = self._value(name, known, batch)
            total, log[name] = total + value, value.detach()
        return total, log

    def phases(self, trains: tuple[str, ...], optimizer: str) -> tuple[Phase, ...]:
        """A phase for each lazy penalty; they stand behind the discriminator's own."""
        return tuple(
            Phase(
                name,
                trains,
                self._lazy(name),
                every=settings.every,
                optimizer=optimizer,
                batch="same",
                after_update=self.after_update(trains),
            )
            for name, settings in self.penalties.items()
            if name not in self.folded
        )

    def after_update(self, trains: tuple[str, ...]) -> Callable[[Networks], None] | None:
        """For `Phase.after_update` of whatever moves the discriminator."""
        limit = self.config.weight_clip
        if limit is None:
            return None

        def clip(networks: Networks) -> None:
            for name in trains:
                clip_weights(networks[name], limit)

        return clip

    def _lazy(self, name: str) -> Callable[[Networks, Batch], Terms]:
        def loss(networks: Networks, batch: Batch) -> Terms:
            fake = batch.images
            if PENALTIES[name].at != "real":
                with torch.no_grad():
                    fake = self.fake(networks, batch)
            judged = self._judge_anew(name, networks, batch, batch.images, fake)
            value = self._value(name, judged, batch)
            # DDP waits for a gradient of every parameter, and the last bias has no part in the slope.
            return Terms(value + 0 * judged.logits.sum(), {"loss": value.detach()})

        return loss

    def _judge_anew(self, name: str, networks: Networks, batch: Batch, real: Tensor, fake: Tensor) -> Judged:
        what = PENALTIES[name].at
        if what == "between":
            share = batch.draw("interpolation").uniform()
            images = interpolated(real.detach(), fake.detach().to(real.dtype), share)
        else:
            images = real if what == "real" else fake
        return _judge_in_full(self.critic(networks, batch, what), images)

    def _value(self, name: str, judged: Judged, batch: Batch) -> Tensor:
        settings = self.penalties[name]
        with _full_precision(judged.images.device.type):
            slope = slopes(judged.logits, judged.images)
            # A row for each logit, which may be that of several images.
            value = PENALTIES[name].value(slope.reshape(len(judged.logits), -1), settings).mean()
        return value * schedule_factor(settings.schedule, batch.seen, 0.0)


def _judge_in_full(critic: Critic, images: Tensor) -> Judged:
    images = images.detach()
    if images.dtype in (torch.bfloat16, torch.float16):
        images = images.float()
    images.requires_grad_()
    with _full_precision(images.device.type):
        return Judged(images, critic(images))


@contextlib.contextmanager
def _full_precision(device_type: str) -> Iterator[None]:
    """Without autocast, and without `torch.compile` where anything has been compiled."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.autocast(device_type, enabled=False))
        # Asking for the stance imports the compiler, which takes seconds.
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
