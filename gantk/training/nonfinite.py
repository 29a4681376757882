"""Losses and gradients that are no longer finite: withheld on the device, counted, and told by phase, network and layer."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gantk.errors import DivergedError
from gantk.objectives import Phase

if TYPE_CHECKING:
    from gantk.training.trainer import Trainer

log = logging.getLogger("gantk")


SCALER_LIMIT = 32
"""Updates in a row that the gradient scaler of fp16 may withhold in one phase. Each halves its scale, which starts at 2¹⁶: a
gradient that overflows at 2⁻¹⁶ still does so for another reason than its scale."""


class Watch:
    """What was not finite since the last look, for each phase; all of it stays on the device until somebody looks."""

    def __init__(self, phases: Iterable[Phase], device: torch.device) -> None:
        names = [phase.name for phase in phases]
        self.withheld = {name: torch.zeros((), device=device) for name in names}
        """Updates that moved nothing, for their reduced gradient was not finite: the same on all processes."""
        self.losses = {name: torch.zeros((), device=device) for name in names}
        """Losses of this process that were not finite."""
        self.gradients: dict[str, Tensor] = {}
        """How often the gradient of each parameter was not finite, in the order of `parameters`."""
        self.parameters: dict[str, list[str]] = {}
        self.skipped = dict.fromkeys(names, 0)
        """Updates withheld up to the last look."""
        self.scaled_away = {name: torch.zeros((), device=device) for name in names}
        """Updates that the gradient scaler withheld, for which it lowered its scale, as it must now and then."""
        self.in_a_row = {name: torch.zeros((), device=device) for name in names}
        """Those of them since the last update that was not withheld."""
        self.stood_still: dict[str, Tensor] = {}
        """1.0 for each network of which this step's updates were all withheld."""

    def guard(self, phase: str, loss: Tensor) -> Tensor:
        """`loss`, whose gradient is no number where it is none itself: so all processes hear of it, without asking."""
        finite = loss.detach().isfinite()
        self.losses[phase] += (~finite).float()
        return loss * torch.where(finite, 1.0, math.nan)

    def begin_step(self) -> None:
        self.stood_still = {}

    def flag(self, phase: Phase, names: list[str], norms: Tensor, total: Tensor, scaled: bool = False) -> Tensor:
        """1.0 where the update must be withheld, else 0.0, for the norm of each parameter's gradient and of all.

        `scaled`: it is the gradient scaler that withholds it.
        """
        if self.parameters.get(phase.name) != names:
            self.parameters[phase.name], self.gradients[phase.name] = names, torch.zeros_like(norms)
        self.gradients[phase.name] += ~norms.isfinite()
        withheld = (~total.isfinite()).float()
        if scaled:
            self.scaled_away[phase.name] += withheld
            self.in_a_row[phase.name].add_(1).mul_(withheld)
            # What it has got over names no layer later.
            self.gradients[phase.name] *= withheld
        else:
            self.withheld[phase.name] += withheld
        for network in phase.trains:
            before = self.stood_still.get(network)
            self.stood_still[network] = withheld if before is None else before * withheld
        return withheld

    def counts(self) -> dict[str, int]:
        """The updates withheld so far, by phase; reads the device."""
        new = torch.stack([self.withheld[name] + self.scaled_away[name] for name in self.skipped]).tolist()
        return {name: self.skipped[name] + round(count) for name, count in zip(self.skipped, new, strict=True)}

    def scaler_state(self) -> dict[str, list[int]]:
        """What the gradient scaler withheld in each phase, in all and in a row; reads the device."""
        return {
            name: [round(float(all_of[name])) for all_of in (self.scaled_away, self.in_a_row)] for name in self.skipped
        }

    def load_scaler_state(self, state: Mapping[str, list[int]]) -> None:
        for name, (total, row) in state.items():
            self.scaled_away[name].fill_(total)
            self.in_a_row[name].fill_(row)

    def forget(self) -> None:
        for tensors in (self.withheld, self.losses, self.gradients):
            for value in tensors.values():
                value.zero_()


class Buffers:
    """Networks' running statistics, and the objective's own state, as they last were finite: a forward pass that
    overflows spoils them for ever.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self._modules = modules
        self._good = [buffer.clone() for buffer in self._all()]

    def _all(self) -> list[Tensor]:
        return [b for module in self._modules for b in module.buffers() if b.is_floating_point()]

    @torch.no_grad()
    def remember(self) -> None:
        # The loss may be finite where a buffer no longer is.
        self._good = [
            torch.where(buffer.isfinite().all(), buffer, good)
            for buffer, good in zip(self._all(), self._good, strict=True)
        ]

    @torch.no_grad()
    def keep(self) -> None:
        """Put back those that are no longer finite, and remember the others: as `mend` and `remember`, in fewer operations."""
        kept = [(place, buffer) for place, buffer in enumerate(self._all()) if buffer.numel()]
        if not kept:
            return
        largest = torch._foreach_norm([buffer for _, buffer in kept], math.inf)
        for (place, buffer), most in zip(kept, largest, strict=True):
            self._good[place] = torch.where(most.isfinite(), buffer, self._good[place])
            buffer.copy_(self._good[place])

    @torch.no_grad()
    def mend(self) -> None:
        for buffer, good in zip(self._all(), self._good, strict=True):
            buffer.copy_(torch.where(buffer.isfinite().all(), buffer, good))


def settle(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Look at what was withheld since the last look, and act on it by `train.on_nonfinite`; every process must call it.

    Args:
        trainer: whose runner withheld it.
        values: the interval's means, of which a loss that is not finite counts as well.

    Raises:
        DivergedError: naming phase, network and layer, for `stop`, or beyond `train.max_skipped`.
    """
    watch, train = trainer.runner.watch, trainer.config.train
    names = list(watch.withheld)
    counts = torch.stack([watch.withheld[name] for name in names]).tolist()
    rows = torch.stack([watch.in_a_row[name] for name in names]).tolist()
    stuck = {name: round(row) for name, row in zip(names, rows, strict=True) if row >= SCALER_LIMIT}
    bad = [*stuck] or [
        name
        for name, count in zip(names, counts, strict=True)
        if count > 0 or not math.isfinite(values.get(f"{name}/loss", 0.0))
    ]
    if not bad:
        trainer.buffers.remember()
        return
    for name, count in zip(names, counts, strict=True):
        # With a gradient scaler it is the scaler that withholds: an interval counts once then.
        watch.skipped[name] += max(round(count), int(name in bad))
    total = sum(watch.skipped.values())
    if train.on_nonfinite == "skip" and total <= train.max_skipped and not stuck:
        told = "; ".join(_what(trainer, name) for name in bad)
        log.warning("%s; skipped, %d updates of at most %d so far", told, total, train.max_skipped)
        trainer.buffers.mend()
        watch.forget()
        return
    told = _what(trainer, bad[0]) + _source(trainer, bad[0])
    trainer.buffers.mend()
    watch.forget()
    kept = trainer.keep_diverged()
    plays_with = _phase(trainer, bad[0]).plays_with
    bound = (
        f"more than `train.max_skipped: {train.max_skipped}` updates were skipped; "
        if total > train.max_skipped
        else ""
    )
    if stuck:
        told += (
            f", and the gradient scaler of fp16 has skipped {stuck[bad[0]]} updates in a row, which no scale can help"
        )
    raise DivergedError(
        f"{told}; no weights were touched by it; {bound if train.on_nonfinite == 'skip' else ''}the last finite state is "
        f"{kept}: lower `optimizer.phases.{plays_with}.lr`, or set `clip_norm` there"
    )


def _phase(trainer: Trainer, name: str) -> Phase:
    return next(phase for phase in trainer.objective.phases if phase.name == name)


def _what(trainer: Trainer, name: str) -> str:
    """Which phase, which process, and where the gradient was not finite first on its way back from the loss."""
    watch, runtime = trainer.runner.watch, trainer.runtime
    losses = runtime.gather(watch.losses[name][None]).tolist()
    where = [rank for rank, count in enumerate(losses) if count > 0]
    if not where:
        what = "gradient"
    elif runtime.world_size == 1:
        what = "loss"
    else:
        what = f"loss on process {', '.join(map(str, where))} (of 0 to {runtime.world_size - 1})"
    sentence = (
        f"phase `{name}` (which trains {', '.join(_phase(trainer, name).trains)}) had a {what} that is not finite by "
        f"{trainer.kimg:g} kimg"
    )
    if name in watch.gradients:
        spoilt = [watch.parameters[name][place] for place in watch.gradients[name].nonzero().flatten().tolist()]
        if spoilt:
            # Backward comes from the loss: the layer nearest to it is where the gradient was spoilt.
            network, _, layer = spoilt[-1].partition(".")
            sentence += f", first in the gradient of network `{network}`, layer `{layer}`"
    return sentence


def _source(trainer: Trainer, name: str) -> str:
    """The first layer whose output is not finite when the phase is played again, if it is still so.

    Where weights have grown too large they still are, for nothing has moved them since.
    """
    found: list[str] = []
    hooks = []
    for network_name, network in trainer.runner.bare.items():
        for layer, module in network.named_modules():
            if next(module.children(), None) is None:

                def look(_: nn.Module, __: object, output: object, place: str = f"{network_name}.{layer}") -> None:
                    if not found and isinstance(output, Tensor) and not bool(output.detach().isfinite().all()):
                        found.append(place)

                hooks.append(module.register_forward_hook(look))
    # What is played again leaves no trace.
    random_state = torch.get_rng_state()
    buffers = [b for module in (*trainer.runner.bare.values(), trainer.objective) for b in module.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        trainer.runner.replay(_phase(trainer, name), trainer.step - 1, trainer.batches)
    except RuntimeError as error:
        log.debug("playing phase %s again failed: %s", name, error)
    finally:
        torch.set_rng_state(random_state)
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        for hook in hooks:
            hook.remove()
    if not found:
        return ""
    network_name, _, layer = found[0].partition(".")
    return f" (the output of network `{network_name}`, layer `{layer}`, is the first that is not finite)"
