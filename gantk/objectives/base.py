"""The terms in which a game is told to the trainer: networks, phases, and a loss for each phase."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from gantk.config.schema import Section
from gantk.draws import Draws
from gantk.networks import Family
from gantk.registry import Registry


@dataclass(frozen=True)
class Terms:
    """What a phase's loss function gives back."""

    loss: Tensor
    """A scalar: the mean over the micro-batch."""
    log: Mapping[str, Tensor] = field(default_factory=dict)
    """Scalars to report, on the device and detached: reading one on the host would stall a GPU in every step."""


@dataclass(frozen=True)
class Images:
    """Real images of one source."""

    images: Tensor
    """[N, C, H, W] in [−1, 1]."""
    labels: Tensor | None
    """int64 [N], where the source has labels."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch on one process: real images, and random numbers that belong to its rows."""

    images: Tensor
    """[N, C, H, W] in [−1, 1]."""
    labels: Tensor | None
    """int64 [N], where the data has labels."""
    index: Tensor
    """int64 [N]: the rows' places in the step's global batch, the same for any number of processes."""
    sources: Mapping[str, Images]
    """The same rows of the config's `extra_data`."""
    draw: Callable[[str], Draws]
    """`draw("z").normal(100)`: random numbers for a purpose, keyed by (seed, step, phase, repeat, purpose, row). Another phase
    gets others for the same purpose."""
    shared: Callable[[str], Draws]
    """`shared("z").normal(100)`: the same numbers in every phase of the step that plays on these real images, and other ones
    with the next real images: a later phase that computes an output again gets the one that an earlier phase had."""
    seen: int = 0
    """Real images seen before this step, which schedules go by."""
    left: dict[str, Tensor] = field(default_factory=dict)
    """What earlier phases of the step left for those that play on the same images; see `Phase.leaves`."""

    def __len__(self) -> int:
        return len(self.index)


Networks = Mapping[str, nn.Module]
"""The networks as a phase may call them: those that it trains, wrapped for distribution; the others frozen."""


@dataclass(frozen=True)
class Phase:
    """One player's move: which networks it trains, on which loss, how often, with which optimiser."""

    name: str
    trains: tuple[str, ...]
    loss: Callable[[Networks, Batch], Terms]
    repeats: int = 1
    """Updates in one step (critic steps)."""
    every: int = 1
    """Every so many steps, with the loss times as much (lazy regularisation, Karras et al. 2020)."""
    optimizer: str | None = None
    """Default: the phase's own name. Phases of one optimiser must train the same networks."""
    from_kimg: float = 0.0
    to_kimg: float = math.inf
    batch: Literal["new", "same"] = "new"
    """Whether each repeat draws new real images, or plays on those that the phase before it drew."""
    inference: tuple[str, ...] = ()
    """Networks that are called in evaluation mode."""
    leaves: tuple[str, ...] = ()
    """Networks of which the loss leaves an output in `batch.left`, with its graph, for a later phase that trains them and
    then need not compute it again. They keep their graphs in the last repeat, where it is the whole batch's: with
    accumulation, the graphs of all micro-batches would lie in memory at once."""
    whole_batch: bool = False
    """The loss is of batch statistics, and is not a mean over micro-batches: accumulation is refused."""
    after_update: Callable[[Networks], None] | None = None
    """Called with the bare networks after each update: the way back into a constraint (weight clipping)."""

    @property
    def plays_with(self) -> str:
        return self.optimizer or self.name

    def due(self, step: int, images: int) -> bool:
        return step % self.every == 0 and self.from_kimg * 1000 <= images < self.to_kimg * 1000


class Objective(nn.Module):
    """A game: its networks, its phases, and its own state.

    Its buffers are its state, and are treated as a network's: they are on the run's device and in its precision, part of
    each checkpoint, and floating-point ones are averaged over processes once a step, and put back where a step left them
    not finite. All processes must hold the same: integers, and rows that are kept (a pool of images), are to be computed
    from what every process has, as `gantk.runtime.gather_with_gradient` gives it; what differs is refused after the first
    step and at each checkpoint. Its networks are not its submodules.

    Args:
        config: its section of the config.
        family: makes the networks.
    """

    Config: ClassVar[type[Section]]
    advice: str | None = None
    """What somebody who begins to train this game should hear, in a sentence."""
    sources: ClassVar[tuple[str, ...]] = ()
    """The `extra_data` that it plays on."""

    networks: dict[str, nn.Module]
    phases: tuple[Phase, ...]
    averaged: tuple[str, ...] = ("generator",)
    """The networks of which a moving average is kept."""

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__()
        self.config, self.family = config, family

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "after_step" in vars(cls):
            raise TypeError(f"`after_step` of {cls.__name__} is now `adapt(images, means)`: rename it")

    @classmethod
    def group(cls, config: Any) -> int:
        """How many neighbours in a batch belong together; each process's micro-batches are multiples of it."""
        return 1

    def setup(self, batch: Batch) -> None:
        """Called once at the start of a new run, without gradients, with its whole first global batch.

        Every process is given all of it, also where steps are cut into micro-batches; afterwards all have the main
        process's networks and state.
        """

    def adapt(self, images: int, means: Mapping[str, float]) -> None:
        """Change the objective's own state by what its phases reported (adaptive augmentation, say).

        Called after the step in which a multiple of `train.adapt_every_kimg` is passed, on all processes alike; not where
        one of the means is not finite.

        Args:
            images: real images seen so far.
            means: of each value in `Terms.log`, by `phase/name`, and of `phase/grad_norm`, over all updates since the last
                call and all processes.
        """

    def latent(self, draws: Draws, truncation: float = 1.0) -> Tensor:
        """z for samples: [N, latent_dim]."""
        return self.family.draw_latent(draws, truncation)

    def generate(self, networks: Networks, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images [N, C, H, W] in [−1, 1] from z: what a sample of this game is."""
        images: Tensor = networks["generator"](z, labels)
        return images

    def run_averages(self, networks: Networks, z: Tensor, labels: Tensor | None, real: Callable[[], Batch]) -> None:
        """Run the averaged networks once, for the batch-norm statistics of their averaged weights.

        By default it draws samples, with `generate`. An objective that averages a network which takes real images (an
        encoder) overrides it, and runs that one as well.

        Args:
            networks: by name: averages with batch norm as in training and all else as in evaluation; the others as they
                are, in evaluation mode.
            z: [N, latent_dim].
            labels: int64 [N], classes with their shares of the data, where the networks use them.
            real: gives N real images when it is called, which reads them: always the same ones, and numbers with them.
        """
        self.generate(networks, z, labels)

    def judge(self, networks: Networks, images: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """Logits of images [N, C, H, W] in [−1, 1], one for each or for each group; None where no network judges images alone."""
        return None


OBJECTIVES: Registry[type[Objective]] = Registry("objective", "gantk.objectives")
