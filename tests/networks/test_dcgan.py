"""DCGAN against the paper: shapes, structure, initialisation; and what the labels of the conditional one reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gantk.config import load_config
from gantk.draws import Draws, key_of
from gantk.errors import ConfigError, UserError
from gantk.networks import NETWORKS
from gantk.networks.dcgan import base_and_levels

ROOT = Path(__file__).resolve().parents[2]
SIZES = {28: (7, 2), 32: (4, 3), 48: (6, 3), 64: (4, 4), 96: (6, 4), 128: (4, 5), 8: (4, 1), 14: (7, 1), 80: (5, 4)}


def family(
    kind: str = "dcgan", *, channels: int = 3, resolution: int = 32, classes: int | None = None, **keys: Any
) -> Any:
    config = NETWORKS.configure({"type": kind, **keys})
    return NETWORKS.get(kind)(config, channels=channels, resolution=resolution, num_classes=classes)


def conditional(**keys: Any) -> Any:
    return family("conditional_dcgan", **{"classes": 5, "width": 4, "latent_dim": 6, "hidden_dim": 16, **keys})


@pytest.mark.parametrize("kernel_size", [4, 5])
@pytest.mark.parametrize("kind", ["dcgan", "conditional_dcgan"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", SIZES)
def test_shapes_and_ranges(resolution: int, channels: int, kind: str, kernel_size: int) -> None:
    torch.manual_seed(0)
    made = family(
        kind, channels=channels, resolution=resolution, classes=5, width=2, latent_dim=6, hidden_dim=3,
        kernel_size=kernel_size,
    )  # fmt: skip
    labels = torch.tensor([0, 4]) if kind == "conditional_dcgan" else None
    generator, discriminator = made.generator(), made.discriminator()
    z = 100 * torch.randn(2, 6)
    images = generator(z, labels)
    assert images.shape == (2, channels, resolution, resolution)
    assert images.abs().max() <= 1
    logits = discriminator(images, labels)
    assert logits.shape == (2,)
    assert discriminator.features(images, labels).shape[0] == 2
    (logits.sum() + 0).backward()
    for network in (generator, discriminator):
        assert all(p.grad is not None for p in network.parameters())


def test_labels_of_an_unconditional_network_are_ignored() -> None:
    made = family(width=2, latent_dim=6, classes=5)
    generator = made.generator().eval()
    z = torch.randn(2, 6)
    assert torch.equal(generator(z, torch.tensor([0, 4])), generator(z, None))


def test_layers_are_the_papers() -> None:
    """64×64: z → 1024 × 4×4 → 512 → 256 → 128 → image, and back; figure 1 and section 3 of the paper."""
    made = family(resolution=64, width=128)
    generator, discriminator = made.generator(), made.discriminator()

    assert generator.hidden is None
    ups = [generator.project, *generator.layers]
    assert [(up.linear.in_channels, up.linear.out_channels) for up in ups] == [
        (100, 1024), (1024, 512), (512, 256), (256, 128), (128, 3),
    ]  # fmt: skip
    assert all(isinstance(up.linear, nn.ConvTranspose2d) and up.linear.kernel_size == (4, 4) for up in ups)
    assert [up.linear.stride for up in ups] == [(1, 1)] + [(2, 2)] * 4
    assert [isinstance(up.norm, nn.BatchNorm2d) for up in ups] == [True] * 4 + [False]
    assert [type(up.activation) for up in ups] == [nn.ReLU] * 4 + [nn.Tanh]

    assert discriminator.hidden is None
    downs = [*discriminator.layers, discriminator.logit]
    assert [(down.linear.in_channels, down.linear.out_channels) for down in downs] == [
        (3, 128), (128, 256), (256, 512), (512, 1024), (1024, 1),
    ]  # fmt: skip
    assert all(isinstance(down.linear, nn.Conv2d) and down.linear.kernel_size == (4, 4) for down in downs)
    assert [down.linear.stride for down in downs] == [(2, 2)] * 4 + [(1, 1)]
    assert [isinstance(down.norm, nn.BatchNorm2d) for down in downs] == [False, True, True, True, False]
    assert [type(down.activation) for down in downs[:-1]] == [nn.LeakyReLU] * 4
    assert all(down.activation.negative_slope == 0.2 for down in downs[:-1])
    assert downs[-1].activation is None


def test_parameters_are_counted_by_hand() -> None:
    made = family(resolution=64, width=128)

    def count(network: nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    square = 4 * 4
    norms = 2 * (1024 + 512 + 256 + 128)
    generator = square * (100 * 1024 + 1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3) + norms + 3
    discriminator = square * (3 * 128 + 128 * 256 + 256 * 512 + 512 * 1024 + 1024 * 1)
    discriminator += 128 + 2 * (256 + 512 + 1024) + 1
    assert count(made.generator()) == generator == 12_658_435
    assert count(made.discriminator()) == discriminator == 11_036_289


def test_widths_double_up_to_the_most() -> None:
    made = family(resolution=128, width=16, max_channels=64, discriminator_width=8)
    assert [layer.linear.in_channels for layer in made.generator().layers] == [64, 64, 64, 32, 16]
    assert [layer.linear.out_channels for layer in made.discriminator().layers] == [8, 16, 32, 64, 64]


def test_without_batch_norm_every_layer_has_a_bias() -> None:
    made = family(width=4, batch_norm=False, hidden_dim=8)
    for network in (made.generator(), made.discriminator()):
        assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in network.modules())
        linear = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
        assert linear
        assert all(m.bias is not None for m in linear)


def test_weights_start_as_in_the_paper() -> None:
    torch.manual_seed(0)
    made = family(resolution=32, width=64)
    for network in (made.generator(), made.discriminator()):
        weights = torch.cat(
            [m.weight.flatten() for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
        )
        assert abs(weights.mean()) < 4 * 0.02 / weights.numel() ** 0.5
        assert abs(weights.std() / 0.02 - 1) < 4 / (2 * weights.numel()) ** 0.5
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        gains = torch.cat([m.weight for m in norms])
        assert abs(gains.mean() - 1) < 4 * 0.02 / gains.numel() ** 0.5
        assert abs(gains.std() / 0.02 - 1) < 4 / (2 * gains.numel()) ** 0.5
        assert all((m.bias == 0).all() for m in norms)
        assert all((m.bias == 0).all() for m in network.modules() if isinstance(m, nn.Conv2d) and m.bias is not None)


@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
def test_other_precisions(precision: torch.dtype) -> None:
    made = conditional(channels=1, resolution=8)
    generator, discriminator = made.generator().to(precision), made.discriminator().to(precision)
    images = generator(torch.randn(3, 6, dtype=precision), torch.tensor([0, 1, 2]))
    logits = discriminator(images, torch.tensor([0, 1, 2]))
    assert images.dtype == logits.dtype == precision


# Sizes


@pytest.mark.parametrize(("resolution", "split"), SIZES.items())
def test_base_and_levels(resolution: int, split: tuple[int, int]) -> None:
    assert base_and_levels(resolution) == split


def test_every_size_is_made_or_refused_with_the_nearest() -> None:
    possible = sorted(base * 2**level for base in (4, 5, 6, 7) for level in range(1, 10))
    for resolution in range(1, 1025):
        if resolution in possible:
            base, levels = base_and_levels(resolution)
            assert 4 <= base <= 7
            assert base * 2**levels == resolution
            continue
        below = max((size for size in possible if size < resolution), default=None)
        above = min(size for size in possible if size > resolution)
        near = f"{below} or {above}" if below else f"{above}"
        with pytest.raises(ConfigError, match=rf"`data\.resolution: {resolution}` is not .* use {near}$"):
            base_and_levels(resolution)


# Labels


def test_labels_reach_every_layer() -> None:
    made = conditional(resolution=32, classes=3)
    generator, discriminator = made.generator(), made.discriminator()
    width = {
        "generator": [6, 16, *[layer.linear.in_channels - 3 for layer in generator.layers]],
        "discriminator": [3, 4, 8, 16, 16],
    }
    layers = [generator.hidden, generator.project, *generator.layers]
    inputs = [getattr(x.linear, "in_channels", None) or x.linear.in_features for x in layers]
    assert inputs == [w + 3 for w in width["generator"]]
    layers = [*discriminator.layers, discriminator.hidden, discriminator.logit]
    assert [layer.linear.in_channels for layer in layers] == [w + 3 for w in width["discriminator"]]


def test_the_label_alone_changes_the_output_at_every_layer() -> None:
    """With the label's weights of all layers but one set to zero, another label still gives another output."""
    torch.manual_seed(0)
    made = conditional(resolution=16, classes=3)
    z, images = torch.randn(2, 6), torch.randn(2, 3, 16, 16)
    for name, given in (("generator", z), ("discriminator", images)):
        count = len([m for m in getattr(made, name)().modules() if type(m).__name__ == "_Layer"])
        for kept in [None, *range(count)]:
            network = getattr(made, name)().eval()
            layers = [m for m in network.modules() if type(m).__name__ == "_Layer"]
            for number, layer in enumerate(layers):
                if number != kept:
                    weight = layer.linear.weight.data
                    rows = weight if isinstance(layer.linear, nn.ConvTranspose2d) else weight.transpose(0, 1)
                    rows[-3:] = 0
            one = network(given, torch.tensor([0, 1]))
            other = network(given, torch.tensor([2, 0]))
            assert torch.equal(one, other) == (kept is None), (name, kept)


def joined(layer: Any, x: Any, labels: Any) -> Any:
    """The output of a layer whose one-hot labels are constant maps, or columns, behind the input's own."""
    hot = torch.nn.functional.one_hot(labels, 3).to(x.dtype)
    if x.dim() == 4:
        hot = hot[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return layer.linear(torch.cat([x, hot], dim=1))


@pytest.mark.parametrize("count", [2, 7])  # fewer and more than classes
@pytest.mark.parametrize("keys", [{}, {"kernel_size": 5}, {"hidden_dim": 0}])
def test_labels_are_one_hot_maps_joined_to_the_input(keys: dict[str, Any], count: int) -> None:
    """Outputs and gradients equal those of the paper's code; how they are computed is a matter of speed."""
    made = conditional(resolution=16, classes=3, batch_norm=False, **keys)
    torch.manual_seed(0)
    labels = torch.arange(count) % 3
    for role in ("generator", "discriminator"):
        for layer in (m for m in made.make(role).double().modules() if type(m).__name__ == "_Layer"):
            layer.activation = None
            linear = layer.linear
            own = (linear.weight.shape[0] if isinstance(linear, nn.ConvTranspose2d) else linear.weight.shape[1]) - 3
            sides = () if isinstance(linear, nn.Linear) else (8, 8)
            x = torch.randn(count, own, *sides, dtype=torch.float64, requires_grad=True)
            one, other = layer(x, labels), joined(layer, x, labels)
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
            upstream, wanted = torch.randn_like(one), [x, *linear.parameters()]
            found = torch.autograd.grad(one, wanted, upstream), torch.autograd.grad(other, wanted, upstream)
            torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_the_conditional_networks_are_as_large_as_the_unconditional_ones_and_the_paper_is_a_config() -> None:
    def weights(kind: str) -> int:
        made = family(kind, resolution=28, channels=1, classes=10, width=32)
        return sum(p.numel() for role in ("generator", "discriminator") for p in made.make(role).parameters())

    assert weights("dcgan") < weights("conditional_dcgan") < 1.25 * weights("dcgan")
    paper: Any = load_config(ROOT / "configs" / "cdcgan_mnist.yaml").network
    assert (paper.kernel_size, paper.hidden_dim) == (5, 1024)


def test_conditional_network_without_labels_is_refused() -> None:
    for classes in (None, 0):
        with pytest.raises(ConfigError, match=r"conditional, but the data has no labels.*data\.label_column"):
            family("conditional_dcgan", classes=classes)


def test_a_role_that_the_family_lacks_is_named() -> None:
    with pytest.raises(ConfigError, match=r"`network.type: dcgan` has no encoder, which the objective needs"):
        family().make("encoder")


# Latents


def test_latents() -> None:
    draws = Draws(key_of(0, "z"), torch.arange(2000))
    uniform = family(latent_dim=8).draw_latent(draws)
    assert uniform.shape == (2000, 8)
    assert uniform.min() >= -1
    assert uniform.max() < 1
    assert abs(uniform.std() - 3**-0.5) < 0.01
    normal = family(latent_dim=8, latent="normal").draw_latent(draws)
    assert abs(normal.std() - 1) < 0.02
    made = family(latent_dim=8, latent="normal")
    torch.testing.assert_close(made.draw_latent(draws, truncation=0.5), normal / 2)
    assert (made.draw_latent(draws, truncation=0.0) == 0).all()


@pytest.mark.parametrize("truncation", [0.0, 0.5])
def test_truncation_of_a_uniform_latent_is_refused(truncation: float) -> None:
    draws = Draws(key_of(0, "z"), torch.arange(5))
    with pytest.raises(UserError, match=r"`--truncation 0.* `network.latent: uniform`.*leave it out.*latent=normal"):
        family(latent_dim=8).draw_latent(draws, truncation=truncation)
    assert family(latent_dim=8).draw_latent(draws, truncation=1.0).shape == (5, 8)
