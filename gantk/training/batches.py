"""Real images for each step, by position in an endless stream: no worker, no state but a cursor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from gantk.data import Dataset
from gantk.data.sampler import shuffled_indices
from gantk.draws import Draws, key_of
from gantk.objectives import Batch, Images


def normalised(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 in 0 … 255 → [−1, 1]; points, which are floating-point numbers already, as they are."""
    images = pixels.to(dtype)
    return images.sub_(127.5).div_(127.5) if pixels.dtype == torch.uint8 else images


class Stream:
    """One source: the shuffled epochs of a dataset one after another, normalised and flipped on the device; points, which
    are floating-point numbers already, are taken as they are.

    The image at position p of the stream depends on (seed, order, p) alone. `order`: the name of the source whose order and
    flips these are, its own or that of the one it is paired with; the main source's is empty.
    """

    def __init__(
        self, dataset: Dataset, seed: int, flip: bool, device: torch.device, dtype: torch.dtype, order: str = ""
    ) -> None:
        self.dataset, self.seed, self.flip, self.order = dataset, seed, flip, order
        self._flip_key = key_of(seed, "flip", *([order] if order else []))
        self.device, self.dtype = device, dtype

    def indices(self, positions: Tensor) -> Tensor:
        return shuffled_indices(positions, len(self.dataset.train), self.seed, self.order)

    def take(self, positions: Tensor, upcoming: Tensor | None, on_device: Tensor | None = None) -> Images:
        """Images at int64 positions [N] on the CPU; `upcoming` are those of the next call, which slow storage starts to
        read. `on_device`: the same positions there, where they are at hand.
        """
        indices = self.indices(positions)
        later = None
        if upcoming is not None and self.dataset.train.reads_ahead:
            later = self.indices(upcoming)
        pixels = self.dataset.train.fetch(indices, later).to(self.device, non_blocking=True)
        images = normalised(pixels, self.dtype)
        if self.flip:
            places = positions.to(self.device) if on_device is None else on_device
            mirrored = Draws(self._flip_key, places).integers(2).bool()
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        labels = self.dataset.train.label_of(indices)
        return Images(images, None if labels is None else labels.to(self.device, non_blocking=True))


class Batches:
    """Cuts a step's global batch into micro-batches for one process.

    Rows [(m · world + rank) · n, + n) of a global batch are micro-batch m of a rank. A row's random numbers are keyed by
    its place in the global batch, so they do not depend on the cut.
    """

    def __init__(
        self,
        main: Stream,
        extra: Mapping[str, Stream],
        *,
        seed: int,
        batch_size: int,
        accumulation: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.main, self.extra, self.seed = main, extra, seed
        self.batch_size, self.accumulation, self.rank, self.world_size = (
            batch_size,
            accumulation,
            rank,
            world_size,
        )
        self.cursor = 0
        """Images drawn so far, over all phases and processes."""
        self.seen = 0
        """Real images seen before the step."""
        self._drawn = 0
        """Global batches drawn in this step."""
        self._last: list[tuple[Tensor, Images, dict[str, Images], dict[str, Tensor]]] = []

    def rows(self) -> list[Tensor]:
        """This process's places in a global batch, int64 [n] for each micro-batch."""
        return [torch.arange(*self._span(micro)) for micro in range(self.accumulation)]

    @property
    def size(self) -> int:
        """Images of one micro-batch on one process."""
        return self.batch_size // (self.world_size * self.accumulation)

    def _span(self, micro: int) -> tuple[int, int]:
        start = (micro * self.world_size + self.rank) * self.size
        return start, start + self.size

    def begin_step(self, seen: int = 0) -> None:
        """Forget the last images, so that what a step plays on never depends on the step before it."""
        self.seen, self._drawn = seen, 0
        self._last = []

    def next(self, phase: str, step: int, repeat: int, new: bool) -> Iterator[Batch]:
        """The micro-batches of one update. `new`: of images not drawn before; else of those drawn last."""
        if new or not self._last:
            self._draw()
        for index, images, sources, left in self._last:
            draw = self._draw_for((step, phase, repeat), index)
            shared = self._draw_for((step, self._drawn), index)
            yield Batch(images.images, images.labels, index, sources, draw, shared, self.seen, left)

    def at_start(self, index: Tensor, moment: tuple[int | str, ...]) -> Batch:
        """The images at the positions `index` of the stream, int64 [N], whole on every process; moves nothing.

        `moment`: the key of its random numbers, in the place of step, phase and repeat.
        """
        where = index.to(self.main.device)
        images = {name: stream.take(index, None, where) for name, stream in {"": self.main, **self.extra}.items()}
        main, draw = images.pop(""), self._draw_for(moment, where)
        return Batch(main.images, main.labels, where, images, draw, draw)

    def _draw(self) -> None:
        start, self.cursor = self.cursor, self.cursor + self.batch_size
        self._drawn += 1
        micro = self.rows()
        self._last = []
        for number, rows in enumerate(micro):
            following = micro[number + 1] + start if number + 1 < len(micro) else micro[0] + self.cursor
            # Made there: to be copied there, the device would have to wait for the host.
            index = (
                rows if self.main.device.type == "cpu" else torch.arange(*self._span(number), device=self.main.device)
            )
            streams = {"": self.main, **self.extra}
            images = {name: stream.take(rows + start, following, index + start) for name, stream in streams.items()}
            self._last.append((index, images.pop(""), images, {}))

    def _draw_for(self, moment: tuple[int | str, ...], index: Tensor) -> Callable[[str], Draws]:
        def draw(purpose: str) -> Draws:
            return Draws(key_of(self.seed, "train", *moment, purpose), index, self.main.dtype)

        return draw
