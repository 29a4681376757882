"""Games that exist to prove the phase design: the unchanged trainer plays them, named in a config by `plugins`."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from gantk.config.schema import Section
from gantk.networks import Family
from gantk.objectives import OBJECTIVES, Batch, Images, Objective, Phase, Terms
from gantk.objectives.base import Networks
from gantk.objectives.gan import GAN, GANConfig
from gantk.runtime import gather_with_gradient


class LazyR1Config(GANConfig):
    type: Literal["test_lazy_r1"] = "test_lazy_r1"  # type: ignore[assignment]
    gamma: float = 1.0
    interval: int = 4


@OBJECTIVES.register("test_lazy_r1")
class LazyR1(GAN):
    """A penalty phase of its own, every few steps, that moves the discriminator with the optimiser of phase `d`."""

    Config = LazyR1Config

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        penalty = Phase("r1", ("discriminator",), self.penalty, every=config.interval, optimizer="d", batch="same")
        self.phases = (self.phases[0], penalty, self.phases[1])

    def penalty(self, networks: Networks, batch: Batch) -> Terms:
        images = batch.images.detach().requires_grad_()
        with torch.autocast(images.device.type, enabled=False):
            logits = networks["discriminator"](images, self.labels(batch))
            (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
            # DDP wants a gradient for every parameter, and the last bias has no part in the slope.
            loss = self.config.gamma / 2 * slope.square().sum((1, 2, 3)).mean() + 0 * logits.sum()
        return Terms(loss, {"loss": loss.detach()})


class TwoDomainsConfig(Section):
    type: Literal["test_two_domains"] = "test_two_domains"
    cycle: float = 1.0


@OBJECTIVES.register("test_two_domains")
class TwoDomains(Objective):
    """Two generators, two discriminators, two sources of data."""

    Config = TwoDomainsConfig
    sources = ("b",)
    averaged = ("generator_a", "generator_b")

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        roles = ("generator_a", "generator_b", "discriminator_a", "discriminator_b")
        self.networks = {role: family.make(role.partition("_")[0]) for role in roles}
        self.phases = (
            Phase("d", ("discriminator_a", "discriminator_b"), self.discriminators),
            Phase("g", ("generator_a", "generator_b"), self.generators, batch="same"),
        )

    def _domains(self, batch: Batch) -> dict[str, Images]:
        return {"a": Images(batch.images, batch.labels), "b": batch.sources["b"]}

    def discriminators(self, networks: Networks, batch: Batch) -> Terms:
        losses = []
        for name, real in self._domains(batch).items():
            with torch.no_grad():
                fake = networks[f"generator_{name}"](self.latent(batch.draw(f"z_{name}")))
            critic = networks[f"discriminator_{name}"]
            losses.append((critic(real.images) - 1).square().mean() + critic(fake).square().mean())
        return Terms(losses[0] + losses[1], {"loss_a": losses[0].detach(), "loss_b": losses[1].detach()})

    def generators(self, networks: Networks, batch: Batch) -> Terms:
        loss = torch.zeros((), device=batch.images.device, dtype=batch.images.dtype)
        fakes = {}
        for name in ("a", "b"):
            fakes[name] = networks[f"generator_{name}"](self.latent(batch.draw(f"z_{name}")))
            loss = loss + (networks[f"discriminator_{name}"](fakes[name]) - 1).square().mean()
        loss = loss + self.config.cycle * (fakes["a"] - fakes["b"]).abs().mean()
        return Terms(loss, {"loss": loss.detach()})

    def generate(self, networks: Networks, z: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = networks["generator_a"](z, labels)
        return images


class FeatureMatchingConfig(GANConfig):
    type: Literal["test_feature_matching"] = "test_feature_matching"  # type: ignore[assignment]


@OBJECTIVES.register("test_feature_matching")
class FeatureMatching(GAN):
    """The generator's loss is of the whole batch's mean features, whichever process holds them."""

    Config = FeatureMatchingConfig

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        self.phases = (
            self.phases[0],
            Phase("g", ("generator",), self.match, batch="same", whole_batch=True, inference=("discriminator",)),
        )

    def match(self, networks: Networks, batch: Batch) -> Terms:
        features = networks["discriminator"].features
        real = gather_with_gradient(features(batch.images).flatten(1)).mean(0)
        fake = gather_with_gradient(features(self.fake(networks, batch)).flatten(1)).mean(0)
        loss = (real - fake).square().sum()
        return Terms(loss, {"loss": loss.detach()})


class DropoutConfig(GANConfig):
    type: Literal["test_dropout"] = "test_dropout"  # type: ignore[assignment]


@OBJECTIVES.register("test_dropout")
class Dropout(GAN):
    """Draws from PyTorch's own generator, and has a state of its own."""

    Config = DropoutConfig

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        self.register_buffer("seen", torch.zeros(()))

    def discriminator_loss(self, networks: Networks, batch: Batch) -> Terms:
        self.seen += len(batch)
        images = torch.nn.functional.dropout(batch.images, 0.2)
        terms = super().discriminator_loss(networks, replace(batch, images=images))
        # The state itself, which goes on to change before the interval is over.
        return Terms(terms.loss * (1 + self.seen / 1e5), {**terms.log, "seen": self.seen})


class PoisonConfig(GANConfig):
    type: Literal["test_poison"] = "test_poison"  # type: ignore[assignment]
    at: int = 2
    """The step in which the gradients of `player` are no numbers."""
    player: Literal["d", "g"] = "d"
    rank: int | None = None
    """The one process that it happens to. Default: all."""
    spoil: Literal["loss", "images"] = "loss"
    """`images`: what the discriminator sees as real is infinite, which spoils its batch statistics as well."""


@OBJECTIVES.register("test_poison")
class Poison(GAN):
    """All is well but for one update of one player."""

    Config = PoisonConfig

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        self.calls = {"d": 0, "g": 0}

    def _now(self, player: str) -> bool:
        self.calls[player] += 1
        here = self.config.rank is None or str(self.config.rank) == os.environ.get("RANK", "0")
        return here and player == self.config.player and self.calls[player] == self.config.at + 1

    def discriminator_loss(self, networks: Networks, batch: Batch) -> Terms:
        now = self._now("d")
        if now and self.config.spoil == "images":
            batch = replace(batch, images=batch.images * float("inf"))
        terms = super().discriminator_loss(networks, batch)
        return Terms(terms.loss * float("nan"), terms.log) if now else terms

    def generator_loss(self, networks: Networks, batch: Batch) -> Terms:
        terms = super().generator_loss(networks, batch)
        return Terms(terms.loss * float("nan"), terms.log) if self._now("g") else terms


class ReadsItsLossConfig(GANConfig):
    type: Literal["test_reads_its_loss"] = "test_reads_its_loss"  # type: ignore[assignment]
    how: Literal["item", "tolist", "numpy", "cpu", "float", "bool", "mask"] = "item"


@OBJECTIVES.register("test_reads_its_loss")
class ReadsItsLoss(GAN):
    """Waits for the device in every step, in one of the ways in which one does."""

    Config = ReadsItsLossConfig

    def generator_loss(self, networks: Networks, batch: Batch) -> Terms:
        terms = super().generator_loss(networks, batch)
        loss = terms.loss.detach()
        if self.config.how == "mask":
            batch.images[batch.images.mean((1, 2, 3)) > 0]
        elif self.config.how in ("float", "bool"):
            {"float": float, "bool": bool}[self.config.how](loss)
        else:
            getattr(loss, self.config.how)()
        return terms


class SharedConfig(GANConfig):
    type: Literal["test_shared"] = "test_shared"  # type: ignore[assignment]
    again: bool = False
    """True where the generator computes its images again where the discriminator's are left with their graph."""
    drawn: Literal["shared", "draw"] = "shared"


@OBJECTIVES.register("test_shared")
class Shared(GAN):
    """The generator's phase computes the discriminator's generated images again, and compares them with those left."""

    Config = SharedConfig

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        self.compared = self.differed = 0

    def fake(self, networks: Networks, batch: Batch) -> Tensor:
        draws = getattr(batch, self.config.drawn)("latent")
        z = self.latent(draws) + self.latent(draws.of("noise"))
        return self.generate(networks, z, self.labels(batch))

    def discriminator_loss(self, networks: Networks, batch: Batch) -> Terms:
        fake = batch.left["fake"] = self.fake(networks, batch)
        on_real, on_fake = self.adversarial.discriminator(
            self.judge(networks, batch.images), self.judge(networks, fake.detach())
        )
        return Terms(on_real.mean() + on_fake.mean())

    def generator_loss(self, networks: Networks, batch: Batch) -> Terms:
        left, again = batch.left.pop("fake"), self.fake(networks, batch)
        self.compared += 1
        self.differed += int(not torch.equal(left, again))
        fake = left if left.requires_grad and not self.config.again else again
        return Terms(self.adversarial.generator(self.judge(networks, fake)).mean())


class TwoNetworksConfig(GANConfig):
    type: Literal["test_two_networks"] = "test_two_networks"  # type: ignore[assignment]
    reuse_fakes: bool = False


@OBJECTIVES.register("test_two_networks")
class TwoNetworks(GAN):
    """A sample goes through an averaged network and one that is not averaged."""

    Config = TwoNetworksConfig

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        self.networks["second"] = family.make("generator")
        self.phases = (*self.phases[:-1], replace(self.phases[-1], trains=("generator", "second")))

    def generate(self, networks: Networks, z: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = (networks["generator"](z, labels) + networks["second"](z, labels)) / 2
        return images


class ByMethodConfig(GANConfig):
    type: Literal["test_by_method"] = "test_by_method"  # type: ignore[assignment]
    reuse_fakes: bool = False


class Judge(torch.nn.Module):
    """A discriminator whose logits come from a method, which calls the network itself."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.scale = network, 2.0

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        output: Tensor = self.network(x, labels)
        return output

    def logits_of(self, x: Tensor, *, times: float) -> Tensor:
        return times * self(x)


@OBJECTIVES.register("test_by_method")
class ByMethod(GAN):
    """The discriminator is called by a method of its own, in all phases."""

    Config = ByMethodConfig

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        self.networks["discriminator"] = Judge(self.networks["discriminator"])

    def judge(self, networks: Networks, images: Tensor, labels: Tensor | None = None) -> Tensor:
        discriminator: Any = networks["discriminator"]
        logits: Tensor = discriminator.logits_of(images, times=discriminator.scale)
        return logits

    def discriminator_loss(self, networks: Networks, batch: Batch) -> Terms:
        with torch.no_grad():
            fake = self.fake(networks, batch)
        on_real, on_fake = self.adversarial.discriminator(
            self.judge(networks, batch.images), self.judge(networks, fake)
        )
        return Terms(on_real.mean() + on_fake.mean())

    def generator_loss(self, networks: Networks, batch: Batch) -> Terms:
        return Terms(self.adversarial.generator(self.judge(networks, self.fake(networks, batch))).mean())
