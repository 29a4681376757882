"""What a data set holds, for `gantk doctor`: classes, sizes, modes, and what is damaged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from gantk_eval.errors import DataError
from gantk_eval.images import read_header
from gantk_eval.labels import distinct_classes
from gantk_eval.progress import Bar
from gantk_eval.walk import left_out_sentence

from gantk.config.schema import DataConfig
from gantk.data.cache import BATCH, processors
from gantk.data.classes import in_training_classes
from gantk.data.copies import count_copies, count_shared, hash_of
from gantk.data.dataset import open_dataset
from gantk.data.made import digits_config
from gantk.data.sources import Item, Source, open_sources
from gantk.data.transform import Transform

NAMED = 20  # damaged pictures that are named; the rest are counted
SHOWN = 10  # sizes, modes and classes in the table; the rest are counted


@dataclass
class SplitReport:
    """What one split holds."""

    description: str
    count: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    """The number of files that are no images, by the endings of their names."""
    notes: tuple[str, ...] = ()
    """Sentences on what else is left aside."""
    labels: dict[str, int] = field(default_factory=dict)
    """Images of each class, by its name (its number, where it has none). Empty where there are no labels."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Images of each size, as `width×height`, the most frequent first."""
    modes: dict[str, int] = field(default_factory=dict)
    """Images of each Pillow mode (L: grey, RGB, RGBA, P: palette ...), the most frequent first."""
    enlarged: int = 0
    """Images whose shorter side is below the resolution, so that they gain no detail."""
    corrupt: list[str] = field(default_factory=list)
    """What is wrong with the first damaged pictures, each named."""
    corrupt_count: int = 0
    hashes: list[bytes] = field(default_factory=list, repr=False)
    """The hash of the decoded images' pixels."""

    @property
    def copies(self) -> int:
        """Images that are exact copies of earlier ones, once decoded and resized."""
        return count_copies(self.hashes)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield self.description
        others = left_out_sentence(self.left_out)
        yield f"  images    {self.count:,}" + (f"; {others}" if others else "")
        yield f"  classes   {_table(self.labels)}" if self.labels else "  classes   none"
        for sentence in self.notes:
            yield f"    {sentence}"
        yield f"  sizes     {_table(self.sizes)}"
        yield f"  modes     {_table(self.modes)}"
        if self.enlarged:
            yield f"  enlarged  {self.enlarged:,} are smaller than data.resolution"
        if self.copies:
            yield f"  copies    {self.copies:,} are exact copies of others"
        yield f"  damaged   {self.corrupt_count:,}"
        for sentence in self.corrupt:
            yield f"    {sentence}"
        if self.corrupt_count > len(self.corrupt):
            yield f"    ... and {self.corrupt_count - len(self.corrupt):,} more"


@dataclass
class DataReport:
    """What a config's data holds: the images to train on, and a held-out split where the data has its own."""

    train: SplitReport
    heldout: SplitReport | None
    unknown_classes: str | None = None
    """The sentence on held-out classes that the training images lack, where there are any."""

    @property
    def corrupt_count(self) -> int:
        """Damaged pictures in both splits: training refuses to start while there are any."""
        return self.train.corrupt_count + (self.heldout.corrupt_count if self.heldout else 0)

    def table(self) -> str:
        """For people."""
        lines = list(self.train.lines())
        if self.heldout is None:
            lines.append("held-out: a share of these images, by data.heldout_fraction")
            if self.train.copies:
                lines.append("  copies may stand on both sides, and a held-out set that holds copies judges nothing")
        else:
            lines += ["held-out:", *self.heldout.lines()]
            if shared := count_shared(self.heldout.hashes, self.train.hashes):
                lines.append(f"  {shared:,} are exact copies of training images: such a held-out set judges nothing")
        return "\n".join(lines)


def inspect(config: DataConfig, *, progress: bool = False) -> DataReport:
    """Reads and decodes every image of a config's data and reports on them, damaged ones included.

    Raises DataError only where there is no data to look at: a missing path, no images, a missing column.
    """
    if config.source == "mixture":
        return _made(config)
    if config.source == "stacked_mnist":
        config = digits_config(config)
    train, heldout = open_sources(config, progress=progress)
    report = DataReport(
        _inspect(train, config, progress),
        None if heldout is None else _inspect(heldout, config, progress),
    )
    if heldout is not None and train.labels is not None and heldout.labels is not None:
        try:
            in_training_classes(
                heldout.labels,
                heldout.class_names,
                *distinct_classes(train.labels, train.class_names),
                heldout.description,
            )
        except DataError as error:
            report.unknown_classes = str(error)
    return report


def _made(config: DataConfig) -> DataReport:
    """Nothing to read and nothing to be damaged."""
    dataset = open_dataset(config)
    reports = [
        SplitReport(store.name, len(store), sizes={"2-d points": len(store)})
        for store in (dataset.train, dataset.heldout)
    ]
    return DataReport(reports[0], reports[1])


def _inspect(source: Source, config: DataConfig, progress: bool) -> SplitReport:
    transform = Transform(config.resolution, config.channels)
    report = SplitReport(source.description, len(source), source.left_out, source.notes)
    if source.labels is not None:
        labels, names = distinct_classes(source.labels, source.class_names)
        counts = np.bincount(labels, minlength=len(names or ()))
        names = names or tuple(str(label) for label in range(len(counts)))
        report.labels = {name: int(count) for name, count in zip(names, counts, strict=True)}
    sizes: Counter[str] = Counter()
    modes: Counter[str] = Counter()

    def look(numbered: tuple[int, Item]) -> tuple[tuple[int, int, str], bytes] | DataError:
        index, item = numbered
        name = source.locate(index)
        try:
            if isinstance(item, np.ndarray):
                found = (item.shape[0], item.shape[1], "L" if item.shape[2] == 1 else "RGB")
            else:
                found = read_header(item, name=name)[:3]
            pixels = transform(item, name=name)
        except DataError as error:
            return error
        return found, hash_of(pixels)

    numbered = enumerate(source.items())
    with (
        ThreadPoolExecutor(processors()) as pool,
        Bar(len(source), "looking at images", "image", enabled=progress) as bar,
    ):
        while batch := list(islice(numbered, BATCH * processors())):
            for found in pool.map(look, batch):
                bar.update()
                if isinstance(found, DataError):
                    report.corrupt_count += 1
                    if len(report.corrupt) < NAMED:
                        report.corrupt.append(str(found))
                    continue
                (height, width, mode), digest = found
                report.hashes.append(digest)
                sizes[f"{width}×{height}"] += 1
                modes[mode] += 1
                report.enlarged += min(height, width) < config.resolution
    report.sizes, report.modes = dict(sizes.most_common()), dict(modes.most_common())
    return report


def _table(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{name}: {count:,}" for name, count in islice(counts.items(), SHOWN))
    more = len(counts) - SHOWN
    if more <= 0:
        return shown or "none"
    return f"{shown} and {more:,} more (from {min(counts.values()):,} to {max(counts.values()):,} images each)"
