"""Spectral normalisation against singular values, self-attention against loops; and both in the networks."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gantk.config import load_config
from gantk.errors import ConfigError
from gantk.networks.layers import SelfAttention, SpectralNorm, add_spectral_norm, iterate, spectral_norms
from gantk.training.trainer import Trainer

SNGAN = (
    "network.spectral_norm=[generator, discriminator]",
    "network.discriminator_batch_norm=false",
    "network.attention=[8]",
    "objective.loss=hinge",
    "data.resolution=16",
    "evaluate.every_kimg=99",
    "train.kimg=0.256",
)


def largest(weight: Tensor, transposed: bool = False) -> float:
    """The largest singular value of [outputs, all else]."""
    matrix = (weight.transpose(0, 1) if transposed else weight).flatten(1)
    return float(torch.linalg.svdvals(matrix.double())[0])


def normed_layers(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]


def largest_in(network: nn.Module) -> list[float]:
    return [largest(m.weight.detach(), isinstance(m, nn.ConvTranspose2d)) for m in normed_layers(network)]  # type: ignore[arg-type]


def test_the_largest_singular_value_is_one() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(7, 4), nn.Conv2d(5, 6, 3), nn.ConvTranspose2d(5, 6, 3)]
    for layer in layers:
        before = layer.weight.detach().clone()
        add_spectral_norm(layer)
        # Thirty iterations leave a little where the second singular value is close to the first.
        transposed = isinstance(layer, nn.ConvTranspose2d)
        assert largest(layer.weight.detach(), transposed) == pytest.approx(1, abs=0.03)
        for _ in range(2000):
            iterate(spectral_norms(layer))
        torch.testing.assert_close(layer.weight.detach(), before / largest(before, transposed))


def test_the_gradient_is_that_of_w_over_its_norm() -> None:
    """Miyato et al. 2018, equation 12: (G − ⟨G, W̄⟩ u vᵀ) / σ for an upstream gradient G."""
    torch.manual_seed(0)
    weight = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    norm = SpectralNorm(weight, iterations=500)
    upstream = torch.randn(4, 6, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(norm(weight), weight, upstream)
    u, s, vt = torch.linalg.svd(weight.detach())
    wanted = (upstream - (upstream * weight.detach() / s[0]).sum() * torch.outer(u[:, 0], vt[0])) / s[0]
    torch.testing.assert_close(gradient, wanted)


def test_one_iteration_after_each_update_and_none_in_between() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    add_spectral_norm(layer)
    norm, original = layer.parametrizations.weight[0], layer.parametrizations.weight.original  # type: ignore[union-attr,index]
    left = norm.left.clone()
    for _ in range(3):
        layer(torch.randn(2, 6))
    assert torch.equal(norm.left, left), "a forward pass changes nothing"
    with torch.no_grad():
        original.add_(torch.randn_like(original))
    matrix = original.detach()
    iterate(spectral_norms(layer))
    right = nn.functional.normalize(matrix.T @ left, dim=0)
    torch.testing.assert_close(norm.right, right)
    torch.testing.assert_close(norm.left, nn.functional.normalize(matrix @ right, dim=0))


def test_it_is_in_full_precision_under_autocast() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 6, 3)
    add_spectral_norm(layer)
    wanted = layer.weight.detach().clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.weight, wanted)
        assert layer(torch.randn(1, 5, 4, 4)).dtype == torch.bfloat16


def test_trained_networks_stay_normed_and_so_do_their_averages(project_root: Path) -> None:
    trainer = Trainer(load_config(project_root / "configs" / "tiny.yaml", [*SNGAN, "optimizer.lr=0.001"]))
    start = {n: m.state_dict() for n, m in copy.deepcopy(trainer.runner.bare).items()}
    trainer.train()
    for name, network in {**trainer.runner.bare, "average": trainer.averaged.networks["generator"]}.items():
        for value in largest_in(network):
            assert value == pytest.approx(1, abs=0.05), name
    # They had to keep up with something.
    for name, network in trainer.runner.bare.items():
        now = network.state_dict()
        moved = [k for k in now if k.endswith("original") and not torch.allclose(now[k], start[name][k], rtol=0.05)]
        assert moved, name
    average, own = trainer.averaged.networks["generator"].state_dict(), trainer.runner.bare["generator"].state_dict()
    vectors = [k for k in own if k.endswith((".left", ".right"))]
    assert vectors
    for key in vectors:
        assert torch.linalg.vector_norm(average[key]).item() == pytest.approx(1, abs=1e-4)


def test_they_are_in_the_checkpoint(project_root: Path) -> None:
    """Loading brings back the singular vectors bit for bit, and the samples with them."""
    from gantk.runs import find_checkpoint
    from gantk.sampling import load_sampler

    trainer = Trainer(load_config(project_root / "configs" / "tiny.yaml", [*SNGAN]))
    trainer.train()
    checkpoint = find_checkpoint(str(trainer.folder)).checkpoint
    for stem, network in {**trainer.runner.bare, "generator.ema": trainer.averaged.networks["generator"]}.items():
        saved = checkpoint.tensors(stem)
        assert any(key.endswith(".left") for key in saved)
        for key, value in network.state_dict().items():
            assert torch.equal(saved[key], value), key
    sampler, _ = load_sampler(checkpoint)
    index = torch.arange(4).numpy()
    assert (sampler.images(index) == trainer.sampler.images(index)).all()


def test_the_same_seed_gives_the_same_vectors(project_root: Path) -> None:
    states = []
    for name in ("a", "b"):
        trainer = Trainer(load_config(project_root / "configs" / "tiny.yaml", [*SNGAN, f"name={name}"]))
        states.append(trainer.runner.bare["discriminator"].state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


# Self-attention


def test_attention_is_the_papers() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(16).double()
    x = torch.randn(2, 16, 3, 4, dtype=torch.float64)
    assert torch.equal(layer(x), x), "it starts as the identity"
    layer.gain.data.fill_(0.7)
    query, key, value = (m.weight.detach()[:, :, 0, 0] for m in (layer.query, layer.key, layer.value))
    assert query.shape == (2, 16)
    wanted = x.clone()
    places = [(i, j) for i in range(3) for j in range(4)]
    for n in range(2):
        for a in places:
            scores = torch.stack([(query @ x[n][:, a[0], a[1]]) @ (key @ x[n][:, b[0], b[1]]) for b in places])
            shares = scores.exp() / scores.exp().sum()
            taken = sum(share * (value @ x[n][:, b[0], b[1]]) for share, b in zip(shares, places, strict=True))
            wanted[n][:, a[0], a[1]] += 0.7 * layer.out.weight.detach()[:, :, 0, 0] @ taken
    torch.testing.assert_close(layer(x).detach(), wanted)


def test_attention_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(8).double()
    layer.gain.data.fill_(0.7)
    x = torch.randn(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, x)


@pytest.mark.parametrize("side", [4, 8])
def test_attention_stands_on_feature_maps_of_its_side(side: int, project_root: Path) -> None:
    trainer = Trainer(
        load_config(
            project_root / "configs" / "tiny.yaml", ["data.resolution=16", f"network.attention=[{side}]"]
        )
    )  # fmt: skip
    for network in trainer.runner.bare.values():
        layers = [m for m in network.modules() if isinstance(m, SelfAttention)]
        assert len(layers) == 1
        shapes: list[torch.Size] = []
        layers[0].register_forward_hook(lambda m, given, out, shapes=shapes: shapes.append(out.shape))
    trainer.train_step()
    for network in trainer.runner.bare.values():
        (layer,) = (m for m in network.modules() if isinstance(m, SelfAttention))
        hook = next(iter(layer._forward_hooks.values()))
        assert {tuple(shape[2:]) for shape in hook.__defaults__[0]} == {(side, side)}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("network.attention=[5]",), r"`network\.attention` names feature maps of 5 pixels.*have 4, 8: name"),
        (("network.attention=[16]",), r"`network\.attention` names feature maps of 16 pixels"),
        (("network.spectral_norm=[discriminator]",), r"`network`?.*set `discriminator_batch_norm` to false"),
        (("network.spectral_norm=[critic]",), r"`network\.spectral_norm\.0`"),
    ],
)
def test_misfits_get_a_sentence(overrides: tuple[str, ...], sentence: str, project_root: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(project_root / "configs" / "tiny.yaml", ["data.resolution=16", *overrides])
