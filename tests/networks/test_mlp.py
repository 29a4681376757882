"""Fully connected networks, and packing: shapes, initial weights, and what a pack is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gantk.errors import ConfigError
from gantk.networks import NETWORKS, Family
from gantk.objectives.packing import Packed, pack, packed_discriminator


def family(channels: int = 2, resolution: int = 1, **settings: object) -> Family:
    section = NETWORKS.configure({"type": "mlp", **settings})
    return NETWORKS.get("mlp")(section, channels=channels, resolution=resolution, num_classes=None)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_networks_of_the_protocol() -> None:
    torch.manual_seed(0)
    default = family(output="linear")
    generator, discriminator = default.make("generator"), default.make("discriminator")
    # Hidden layers without bias but with batch norm's two vectors; the output with a bias.
    assert count(generator) == 2 * 400 + 3 * 400 * 400 + 4 * 2 * 400 + 400 * 2 + 2
    assert count(discriminator) == (2 + 1) * 1000 + 2 * (200 + 1) * 1000 + 200 + 1
    weights = torch.cat([m.weight.flatten() for m in discriminator.modules() if isinstance(m, nn.Linear)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert all((m.bias == 0).all() for m in discriminator.modules() if isinstance(m, nn.Linear))
    norms = [m for m in generator.modules() if isinstance(m, nn.BatchNorm1d)]
    assert len(norms) == 4
    assert all((m.weight == 1).all() for m in norms)
    points = generator(torch.randn(5, 2))
    assert points.shape == (5, 2, 1, 1)
    assert discriminator(points).shape == (5,)


def test_a_maxout_unit_is_the_largest_of_its_pieces() -> None:
    discriminator = family(discriminator_hidden=[3], maxout_pieces=2).make("discriminator")
    layer = next(m for m in discriminator.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        layer.weight.copy_(torch.arange(12.0).view(6, 2))
        layer.bias.zero_()
    x = torch.tensor([[1.0, -2.0]])
    pieces = (torch.arange(12.0).view(6, 2) @ x[0]).view(3, 2)
    assert torch.equal(discriminator.features(x[:, :, None, None])[0], pieces.max(dim=1).values)


def test_images_end_in_tanh() -> None:
    network = family(3, 8, generator_hidden=[16], latent_dim=4).make("generator")
    images = network(100 * torch.randn(6, 4))
    assert images.shape == (6, 3, 8, 8)
    assert images.abs().max() <= 1


def test_a_pack_is_neighbours_on_top_of_each_other() -> None:
    samples = torch.arange(12.0).view(6, 2, 1, 1)
    packed = pack(samples, 3)
    assert packed.flatten(1).tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    with pytest.raises(ValueError, match="do not divide into packs of 4"):
        pack(samples, 4)


def test_a_packed_discriminator_takes_single_samples_and_judges_packs() -> None:
    discriminator = packed_discriminator(family(), 2)
    assert isinstance(discriminator, Packed)
    samples = torch.randn(6, 2, 1, 1)
    logits = discriminator(samples)
    assert logits.shape == (3,)
    assert torch.allclose(logits[1:], discriminator(samples[2:]), rtol=1e-4)
    assert not torch.allclose(logits[:1], discriminator(samples[[0, 2]]), rtol=1e-3, atol=0)
    assert discriminator.features(samples).shape == (3, 200)
    assert not isinstance(packed_discriminator(family(), 1), Packed)


def test_labels_do_not_go_with_packs() -> None:
    section = NETWORKS.configure({"type": "conditional_dcgan"})
    conditional = NETWORKS.get("conditional_dcgan")(section, channels=1, resolution=8, num_classes=3)
    with pytest.raises(ConfigError, match="set `pack` to 1, or choose an unconditional network"):
        packed_discriminator(conditional, 2)
