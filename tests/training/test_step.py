"""What a step costs: passes through the networks, waits for the device, bytes between processes, memory."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gantk.allocator import release_freed_memory
from gantk.config import load_config
from gantk.data.store import Store
from gantk.training.batches import Stream
from gantk.training.hooks import Hook
from gantk.training.trainer import Trainer

PLUGIN = "plugins=[games]"
ALONE = ("train.kimg=100", "evaluate.every_kimg=1000", "samples.every_kimg=1000", "checkpoint.every_kimg=1000")
PLAIN = ("network.batch_norm=false", "train.precision=float64")


def trainer_of(tiny: Path, *overrides: str) -> Trainer:
    return Trainer(load_config(tiny, [PLUGIN, *ALONE, "train.log_every_kimg=100", *overrides]))


# Passes


@contextmanager
def gradients_of(trainer: Trainer) -> Iterator[dict[str, list[torch.Tensor]]]:
    """The gradients that each phase steps with."""
    found: dict[str, list[torch.Tensor]] = {}
    update = trainer.runner._update

    def keep(phase: Any, player: Any) -> None:
        found[phase.name] = [gradient.clone() for gradient in player.gradients()]
        update(phase, player)

    trainer.runner._update = keep  # type: ignore[method-assign]
    yield found


def passes(trainer: Trainer, network: str) -> list[bool]:
    """Grows by a member for each pass through `network`: whether it keeps a graph."""
    calls: list[bool] = []
    trainer.runner.bare[network].register_forward_hook(lambda m, given, out: calls.append(out.requires_grad))
    return calls


@pytest.mark.parametrize(
    ("overrides", "calls"),
    [
        ((), [True]),
        (("objective.reuse_fakes=false",), [False, True]),
        # Each update of the discriminator has its own images; the last are the generator's.
        (("objective.discriminator_steps=3",), [False, False, True]),
        # The graphs of both micro-batches would lie in memory at once.
        (("train.accumulation=2",), [False, False, True, True]),
        # Its generator plays on new real images, and so on new generated ones.
        (("objective.loss=relativistic",), [False, True]),
    ],
)
def test_images_are_generated_once_for_both_players(tiny: Path, overrides: tuple[str, ...], calls: list[bool]) -> None:
    trainer = trainer_of(tiny, *overrides)
    seen = passes(trainer, "generator")
    trainer.train_step()
    assert seen == calls


def test_both_players_see_the_same_images_and_the_gradient_is_the_same(tiny: Path) -> None:
    """Against a generator's pass of its own on the same z: what accumulation does, its two halves taken together."""
    found = []
    for parts in (1, 2):
        trainer = trainer_of(tiny, *PLAIN, f"train.accumulation={parts}", f"name=parts-{parts}")
        with gradients_of(trainer) as gradients:
            trainer.train_step()
        found.append(gradients)
    once, twice = found
    assert once.keys() == twice.keys() == {"d", "g"}
    for phase in once:
        for a, b in zip(once[phase], twice[phase], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_new_images_for_the_generator_are_other_ones(tiny: Path) -> None:
    """The discriminator's step is the same, and the generator's is not."""
    found = []
    for reuse in ("true", "false"):
        trainer = trainer_of(tiny, *PLAIN, f"objective.reuse_fakes={reuse}", f"name=reuse-{reuse}")
        with gradients_of(trainer) as gradients:
            trainer.train_step()
        found.append(gradients)
    assert all(torch.equal(a, b) for a, b in zip(found[0]["d"], found[1]["d"], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(found[0]["g"], found[1]["g"], strict=True))


def test_no_graph_outlives_the_step(tiny: Path) -> None:
    trainer = trainer_of(tiny)
    trainer.train_step()
    left = [value for *_, left in trainer.batches._last for value in left.values()]
    assert not [value for value in left if value.requires_grad]


# Waits


# What a host that wants a value calls. On a CPU most of these reach no kernel, so they are caught where Python calls them.
HOST_READS = {
    *("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__", "__contains__"),
    *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "equal", "allclose", "is_nonzero"),
}
# The same, called from inside PyTorch (an optimiser's `if found_inf`, a mask used as an index).
KERNELS = {
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero"),
    *("aten::_unique2", "aten::unique_consecutive", "aten::unique_dim", "aten::repeat_interleave"),
}


class HostReads:
    """Notes whatever makes the host wait for the device while it is on."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.host_only = 0
        """How deep we are in code that handles tensors of the host's own, wherever the device is."""

    def note(self, name: str) -> None:
        if not self.host_only:
            self.found.append(name)

    def exempt(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.host_only += 1
            try:
                return function(*args, **kwargs)
            finally:
                self.host_only -= 1

        return call

    @contextmanager
    def watching(self) -> Iterator[None]:
        reads = self

        class Calls(TorchFunctionMode):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                name = getattr(func, "__name__", "")
                mask = name == "__getitem__" and any(
                    isinstance(i, torch.Tensor) and i.dtype == torch.bool
                    for i in (args[1] if isinstance(args[1], tuple) else (args[1],))
                )
                if name in HOST_READS or mask:
                    reads.note(name)
                return func(*args, **(kwargs or {}))

        class Kernels(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if func._schema.name in KERNELS:
                    reads.note(func._schema.name)
                return func(*args, **(kwargs or {}))

        with Calls(), Kernels():
            yield


def host_reads(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the host reads in the second and third step."""
    reads = HostReads()
    # Which images come next is the host's business: it reads no tensor of the device's.
    for owner, name in ((Stream, "indices"), (Store, "fetch"), (Store, "label_of")):
        monkeypatch.setattr(owner, name, reads.exempt(getattr(owner, name)))
    trainer.train_step()
    with reads.watching():
        trainer.train_step()
        trainer.train_step()
    return reads.found


STABILISED = (
    "objective.regularization={gradient_penalty: {}, r1: {gamma: 1, every: 2}, r2: {gamma: 1}, weight_clip: 1}",
    "objective.augment=[color, translation, cutout]",
    "network.spectral_norm=[discriminator]",
    "network.discriminator_batch_norm=false",
)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("objective.loss=relativistic", "objective.discriminator_steps=2"),
        (
            "objective.loss=hinge",
            "train.accumulation=2",
            "data.flip=true",
            "network={type: conditional_dcgan, width: 8}",
        ),
        ("optimizer={type: rmsprop, momentum: 0.5}",),
        ("optimizer={type: sgd, lr: 0.01, clip_norm: 1}",),
        STABILISED,
        ("objective={type: test_two_domains}", "extra_data={b: {source: digits, resolution: 8}}"),
        ("objective={type: test_feature_matching}",),
    ],
    ids=lambda overrides: " ".join(overrides)[:40] or "gan",
)
def test_the_host_reads_nothing_in_a_step(
    tiny: Path, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host_reads(trainer_of(tiny, *overrides), monkeypatch) == []


@pytest.mark.parametrize("read", ["item", "tolist", "numpy", "cpu", "float", "bool", "mask"])
def test_a_game_that_reads_its_loss_is_seen(tiny: Path, read: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(tiny, "objective={type: test_reads_its_loss, " + f"how: '{read}'" + "}")
    assert len(host_reads(trainer, monkeypatch)) >= 2


@pytest.mark.gpu
@pytest.mark.parametrize(
    "overrides", [(), STABILISED, ("data.flip=true", "network={type: conditional_dcgan, width: 8}")]
)
def test_the_host_waits_for_no_gpu_in_a_step(tiny: Path, overrides: tuple[str, ...]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    trainer = trainer_of(tiny, "train.device=auto", *overrides)
    for _ in range(3):
        trainer.train_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step()
        with pytest.raises(RuntimeError, match="synchroniz"):
            trainer.runner.bare["generator"].parameters().__next__().sum().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Bytes


def test_each_gradient_is_reduced_once_for_each_phase_that_trains_it(tiny: Path, tmp_path: Path, launch) -> None:  # type: ignore[no-untyped-def]
    """Two processes, three steps, accumulation; a phase of the discriminator's own every other step."""
    out = tmp_path / "bytes.json"
    penalty = "objective.regularization={r1: {gamma: 1, every: 2}}"
    own = (penalty, "objective.discriminator_steps=2", "train.accumulation=2", *ALONE)
    done = launch(2, "reductions", tiny, out, *own)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    d, g = found["parameters"]["discriminator"], found["parameters"]["generator"]
    assert d > 0
    assert found["reduced"] == {
        # Two repeats in each of three steps; steps 0 and 2 have the penalty; nothing reduces the other's gradients.
        "d/discriminator": 6 * d,
        "r1/discriminator": 2 * d,
        "g/generator": 3 * g,
    }


# Memory


def growth(trainer: Trainer, steps: int) -> float:
    """Bytes of resident memory by step: the least-squares slope over the second half of `steps`."""
    # Earlier tests leave freed pages in the allocator's hands, from which a leak would be served unseen.
    gc.collect()
    release_freed_memory()
    me, seen = psutil.Process(), []
    for step in range(steps):
        trainer.train_step()
        for hook in trainer.hooks:
            hook.after_step(trainer)
        if step >= steps // 2 and step % 10 == 0:
            seen.append((float(step), float(me.memory_info().rss)))
    x, y = torch.tensor(seen, dtype=torch.float64).T
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


class Leak(Hook):
    """Keeps what it meant to log: a small tensor, and by its graph all of a step's activations."""

    def __init__(self) -> None:
        super().__init__(0.032)
        self.losses: list[torch.Tensor] = []

    def act(self, trainer: Trainer) -> None:
        z = torch.rand(64, 16)
        self.losses.append(trainer.runner.bare["generator"](z).mean())


# A step of this size goes through megabytes; half a kilobyte is more than the allocator's own noise comes to.
FLAT = 500.0


@pytest.mark.slow
def test_memory_is_flat_over_two_thousand_steps(tiny: Path) -> None:
    assert growth(trainer_of(tiny, "train.log_every_kimg=0.32"), 2000) < FLAT


@pytest.mark.slow
def test_a_hook_that_leaks_is_seen(tiny: Path) -> None:
    trainer = trainer_of(tiny, "train.log_every_kimg=0.32")
    trainer.hooks.append(Leak())
    assert growth(trainer, 400) > 10 * FLAT
