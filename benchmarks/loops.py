"""Loops that the trainer is compared with: DCGAN's step as everyone writes it, and as well as one can write it by hand.

Both train gantk's own networks, on batches that lie ready as normalised float32 tensors: what a trainer must do besides
(gather and normalise images, keep a moving average, gradient norms, a log) is not in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.networks import NETWORKS

LATENT_DIM = 100


def dcgan(resolution: int, width: int = 64) -> tuple[nn.Module, nn.Module]:
    """The generator and the discriminator of `network.type: dcgan`, three channels, without classes."""
    config = NETWORKS.configure({"type": "dcgan", "width": width, "latent_dim": LATENT_DIM})
    family = NETWORKS.get("dcgan")(config, channels=3, resolution=resolution, num_classes=None)
    return family.make("generator"), family.make("discriminator")


def batches(images: Tensor, size: int, device: torch.device, channels_last: bool) -> Iterator[Tensor]:
    """Batches of uint8 `images` [N, 3, H, W] in [−1, 1], on the device for good, again and again."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    ready = [
        part.to(device).to(torch.get_default_dtype()).sub(127.5).div(127.5).contiguous(memory_format=layout)
        for part in images.split(size)
    ]
    return cycle([part for part in ready if len(part) == size])


class UsualLoop:
    """As in the official PyTorch example and its many copies: float32 and the default layout; a sigmoid and BCELoss; a
    backward pass for real and one for fake images; the generator's gradient computed through a discriminator that
    collects gradients too; and every loss and belief read by the host in every step.
    """

    def __init__(self, images: Tensor, size: int, device: torch.device) -> None:
        generator, discriminator = dcgan(images.shape[-1])
        self.generator, self.discriminator = generator.to(device), discriminator.to(device)
        self.device, self.size = device, size
        self.batches = batches(images, size, device, channels_last=False)
        self.criterion = nn.BCELoss()
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), lr=2e-4, betas=(0.5, 0.999))

    def step(self) -> tuple[float, ...]:
        real = next(self.batches)
        self.discriminator.zero_grad()
        label = torch.full((self.size,), 1.0, device=self.device)
        output = torch.sigmoid(self.discriminator(real))
        loss_real = self.criterion(output, label)
        loss_real.backward()
        belief_real = output.mean().item()

        noise = torch.randn(self.size, LATENT_DIM, device=self.device)
        fake = self.generator(noise)
        label.fill_(0.0)
        output = torch.sigmoid(self.discriminator(fake.detach()))
        loss_fake = self.criterion(output, label)
        loss_fake.backward()
        belief_fake = output.mean().item()
        loss_d = loss_real + loss_fake
        self.optimizer_d.step()

        self.generator.zero_grad()
        label.fill_(1.0)
        output = torch.sigmoid(self.discriminator(fake))
        loss_g = self.criterion(output, label)
        loss_g.backward()
        belief_again = output.mean().item()
        self.optimizer_g.step()
        return loss_d.item(), loss_g.item(), belief_real, belief_fake, belief_again


class TunedLoop:
    """The same game with what is known to help: one backward pass for the discriminator, which is frozen while the
    generator learns; channels-last; fused Adam; losses on logits; nothing read by the host. With `bf16`, autocast too.
    """

    def __init__(self, images: Tensor, size: int, device: torch.device, bf16: bool, capturable: bool = False) -> None:
        generator, discriminator = dcgan(images.shape[-1])
        self.generator = generator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.discriminator = discriminator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.size, self.bf16 = device, size, bf16
        self.batches = batches(images, size, device, channels_last=True)
        self.optimizer_d, self.optimizer_g = (
            torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True, capturable=capturable)
            for network in (self.discriminator, self.generator)
        )

    def step(self) -> None:
        self.step_on(next(self.batches))

    def step_on(self, real: Tensor) -> None:
        self.discriminator.requires_grad_(True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            fake = self.generator(torch.randn(self.size, LATENT_DIM, device=self.device))
            on_real, on_fake = self.discriminator(real), self.discriminator(fake.detach())
            loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        loss.backward()
        self.optimizer_d.step()
        self.optimizer_d.zero_grad()

        self.discriminator.requires_grad_(False)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = F.softplus(-self.discriminator(fake)).mean()
        loss.backward()
        self.optimizer_g.step()
        self.optimizer_g.zero_grad()
