"""Games with a state of their own, named in a config by `plugins`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch

from gantk.networks import Family
from gantk.objectives import OBJECTIVES, Batch, Phase, Terms
from gantk.objectives.base import Networks
from gantk.objectives.gan import GAN, GANConfig
from gantk.runtime import gather_with_gradient


class LeCamConfig(GANConfig):
    type: Literal["test_lecam"] = "test_lecam"  # type: ignore[assignment]
    weight: float = 0.1
    poison_at: int = -1
    """The update of the discriminator whose real images are infinite."""
    count: Literal["none", "same", "own"] = "none"
    """The thing that the integer buffer counts: nothing, images, or what is another number on each process."""
    pool: int = 0
    """The last generated images of all processes that are judged again (Shrivastava et al. 2017)."""


@OBJECTIVES.register("test_lecam")
class LeCam(GAN):
    """The discriminator is drawn towards moving averages of its own logits (Tseng et al. 2021)."""

    Config = LeCamConfig

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        self.register_buffer("ema", torch.zeros(2))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("pool", torch.zeros(config.pool, family.channels, family.resolution, family.resolution))
        self.updates = 0

    def discriminator_loss(self, networks: Networks, batch: Batch) -> Terms:
        if self.updates == self.config.poison_at:
            batch = replace(batch, images=batch.images * float("inf"))
        self.updates += 1
        terms = super().discriminator_loss(networks, batch)
        real = self.judge(networks, batch.images)
        images = self.fake(networks, batch).detach()
        if self.config.pool:
            images = torch.cat([images, self.pool])
            self.pool.copy_(torch.cat([gather_with_gradient(images[: len(batch)]), self.pool])[: len(self.pool)])
        fake = self.judge(networks, images)
        with torch.no_grad():
            self.ema.lerp_(torch.stack([real.mean(), fake.mean()]).to(self.ema.dtype), 0.1)
            if self.config.count != "none":
                self.count += len(batch) if self.config.count == "same" else batch.index.sum()
        distance = (real - self.ema[1]).square().mean() + (fake - self.ema[0]).square().mean()
        return Terms(terms.loss + self.config.weight * distance, terms.log)


class AdaptiveConfig(GANConfig):
    type: Literal["test_adaptive"] = "test_adaptive"  # type: ignore[assignment]
    poison_at: int = -1


@OBJECTIVES.register("test_adaptive")
class Adaptive(GAN):
    """A strength of noise that follows what the discriminator believes, to the last bit of it."""

    Config = AdaptiveConfig

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        self.register_buffer("strength", torch.zeros(()))
        self.calls: list[tuple[int, dict[str, float]]] = []
        self.updates = 0

    def discriminator_loss(self, networks: Networks, batch: Batch) -> Terms:
        noise = batch.draw("noise").normal(*batch.images.shape[1:])
        scale = float("inf") if self.updates == self.config.poison_at else 1
        self.updates += 1
        return super().discriminator_loss(
            networks, replace(batch, images=(batch.images + self.strength * noise) * scale)
        )

    def adapt(self, images: int, means: Mapping[str, float]) -> None:
        self.calls.append((images, dict(means)))
        self.strength += 0.1 * means["d/real"] + 0.01 * means["d/grad_norm"]


class FromDataConfig(GANConfig):
    type: Literal["test_from_data"] = "test_from_data"  # type: ignore[assignment]


@OBJECTIVES.register("test_from_data")
class FromData(GAN):
    """Begins at the mean of the images that it is set up with, and some noise of each process's own."""

    Config = FromDataConfig

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        self.register_buffer("offset", torch.zeros(()))
        self.set_up_with: Batch | None = None

    def setup(self, batch: Batch) -> None:
        self.set_up_with = batch
        self.offset.copy_(batch.images.mean() + torch.rand(()))
        for network in self.networks.values():
            for parameter in network.parameters():
                parameter.add_(batch.images.mean() + 0.01 * torch.rand(()))


class EncoderConfig(GANConfig):
    type: Literal["test_encoder"] = "test_encoder"  # type: ignore[assignment]
    runs: bool = True
    """True where the averaged encoder is run for its statistics."""


@OBJECTIVES.register("test_encoder")
class WithEncoder(GAN):
    """An averaged encoder with batch norm learns to find the z of generated images; real ones are what it is for."""

    Config = EncoderConfig
    averaged = ("generator", "encoder")

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        side = family.resolution
        self.networks["encoder"] = torch.nn.Sequential(
            torch.nn.Conv2d(family.channels, 8, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(8),
            torch.nn.LeakyReLU(0.2),
            torch.nn.Flatten(),
            torch.nn.Linear(8 * side * side, family.latent_dim, bias=False),
            torch.nn.BatchNorm1d(family.latent_dim),
        )
        self.phases = (*self.phases, Phase("e", ("encoder",), self.encoder_loss, batch="same"))

    def encoder_loss(self, networks: Networks, batch: Batch) -> Terms:
        z = self.latent(batch.draw("z"))
        with torch.no_grad():
            images = self.generate(networks, z)
        loss = (networks["encoder"](images) - z).square().mean()
        return Terms(loss, {"loss": loss.detach()})

    def run_averages(
        self, networks: Networks, z: torch.Tensor, labels: torch.Tensor | None, real: Callable[[], Batch]
    ) -> None:
        super().run_averages(networks, z, labels, real)
        if self.config.runs:
            networks["encoder"](real().images)


class GathersConfig(GANConfig):
    type: Literal["test_gathers"] = "test_gathers"  # type: ignore[assignment]


class Gathering(torch.nn.Module):
    """What a network gives, with a part of its mean over the rows of all processes."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *given: torch.Tensor | None) -> torch.Tensor:
        out: torch.Tensor = self.network(*given)
        return out + 0.1 * gather_with_gradient(out).mean(0)


@OBJECTIVES.register("test_gathers")
class Gathers(GAN):
    """Both networks have a collective in their forward pass."""

    Config = GathersConfig

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        self.networks = {name: Gathering(network) for name, network in self.networks.items()}


class NoisyConfig(GANConfig):
    type: Literal["test_noisy"] = "test_noisy"  # type: ignore[assignment]


class Noisy(torch.nn.Module):
    """What a network gives, with noise from PyTorch's own generator, in evaluation too (as in StyleGAN)."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *given: torch.Tensor | None) -> torch.Tensor:
        out: torch.Tensor = self.network(*given)
        return out + 0.1 * torch.randn_like(out)


@OBJECTIVES.register("test_noisy")
class NoisyGAN(GAN):
    """Both networks draw noise in their forward pass."""

    Config = NoisyConfig

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        self.networks = {name: Noisy(network) for name, network in self.networks.items()}


class ScaledConfig(GANConfig):
    type: Literal["test_scaled"] = "test_scaled"  # type: ignore[assignment]
    poison_at: int = -1


class Scaled(torch.nn.Module):
    """What a network gives for its input in units of a moving average of that, which is a buffer used in training."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("nothing", torch.zeros(0))

    def forward(self, images: torch.Tensor, *given: torch.Tensor | None) -> torch.Tensor:
        if self.training:
            self.unit.lerp_(images.detach().abs().mean(), 0.1)
        out: torch.Tensor = self.network(images / self.unit.clone(), *given)
        return out


@OBJECTIVES.register("test_scaled")
class ScaledGAN(GAN):
    """One batch of real images is infinite."""

    Config = ScaledConfig

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        self.networks["discriminator"] = Scaled(self.networks["discriminator"])
        self.updates = 0

    def discriminator_loss(self, networks: Networks, batch: Batch) -> Terms:
        if self.updates == self.config.poison_at:
            batch = replace(batch, images=batch.images * float("inf"))
        self.updates += 1
        return super().discriminator_loss(networks, batch)
