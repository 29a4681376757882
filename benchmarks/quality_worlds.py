"""How often the collapse verdict takes a change of quality for a loss, and a loss for a change of quality.

    python -m benchmarks.quality_worlds run --half development --minutes 9     (again and again, until it says: complete)
    python -m benchmarks.quality_worlds table --half development

Real images that the detector did not see are drawn without replacement, changed by one of `quality_changes.KINDS` (or by two
in a row), and judged. Nothing is missing in worlds of the loss `nothing`; in the others something is, *and* the images are
changed on top. A row a verdict goes to results/quality_worlds.jsonl; the table is made of these rows alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gantk_eval import ArrayImages
from gantk_eval.collapse.known import Known
from gantk_eval.collapse.verdict import ClassEvidence, Evidence, Judgement, examine, knowledge_of
from gantk_eval.extractors.classifier import ClassifierExtractor
from gantk_eval.extractors.pixel_pca import PixelPCAExtractor

from benchmarks.collapse_power import detector, lower_bound, relabellings, upper_bound
from benchmarks.collapse_worlds import Set, read_images
from benchmarks.quality_changes import DEVELOPMENT, HELDBACK, LEVELS, Level, changed, combinations

RESULTS = Path(__file__).parent / "results" / "quality_worlds.jsonl"


@dataclass(frozen=True)
class Setting:
    """A data set and how its images are shared out: reference, held-out, and at least twice the samples to draw from."""

    source: str
    reference: int
    heldout: int
    samples: int
    classes: tuple[int, ...] | None = None
    """Only images of these classes, and fewer of each than of the one before it, as in somebody's own folder."""


SETTINGS: Mapping[str, Setting] = {
    "mnist": Setting("mnist", 10_000, 4000, 2000),
    "cifar10": Setting("cifar10", 10_000, 4000, 2000),
    "folder": Setting("cifar10", 3000, 1200, 1200, classes=(1, 8, 9)),
}


class Material:
    """The images of a setting, the extractors its reference makes, and what the verdict knows beforehand."""

    def __init__(self, name: str) -> None:
        self.name, self.setting = name, SETTINGS[name]
        images, labels, names = read_images(self.setting.source)
        if self.setting.classes is not None:
            kept, share = [], 1.0
            for each in self.setting.classes:
                rows = np.flatnonzero(labels == each)
                kept.append(rows[: int(share * len(rows))])
                share *= 0.7
            rows = np.sort(np.concatenate(kept))
            images, names = images[rows], tuple(names[c] for c in self.setting.classes)
            labels = np.searchsorted(np.sort(self.setting.classes), labels[rows])
            names = tuple(names[i] for i in np.argsort(self.setting.classes))
        first, second = self.setting.reference, self.setting.reference + self.setting.heldout
        self.names = names
        self.reference_images = (images[:first], labels[:first])
        reference = ArrayImages(images[:first], labels[:first], name=f"{name} reference")
        self.classifier, self.pca = ClassifierExtractor(reference, floor=0.0), PixelPCAExtractor(reference)
        self.reference, self.heldout = (
            self.extract(images[:first], labels[:first]),
            self.extract(images[first:second], labels[first:second]),
        )
        self.pool, self.pool_labels = images[second:], labels[second:]
        some = self.heldout.take(np.arange(2))
        self.known: Known = knowledge_of(self.evidence(some, some))

    def extract(self, images: np.ndarray, labels: np.ndarray) -> Set:
        parts = np.array_split(np.arange(len(images)), len(images) // 500 + 1)
        deep = np.concatenate([self.classifier.features(images[p]) for p in parts])
        pixels = np.concatenate([self.pca.features(images[p]) for p in parts]).astype(np.float32)
        return Set(pixels, deep, self.classifier.logits(deep).astype(np.float32), labels)

    def evidence(self, fake: Set, real: Set) -> Evidence:
        classes = ClassEvidence(
            fake.deep, real.deep, self.reference.deep, fake.classes, real.classes, self.reference.classes,
            self.classifier.confusion, self.names, None, None, fake.logits, real.logits,
        )  # fmt: skip
        return Evidence(fake.pixels, real.pixels, self.reference.pixels, classes)

    def judge(self, images: np.ndarray, labels: np.ndarray) -> Judgement:
        drawn = relabellings(len(images), len(self.heldout))
        return examine(self.evidence(self.extract(images, labels), self.heldout), known=self.known, relabellings=drawn)


Lose = Callable[[np.ndarray, np.ndarray, int, int, np.random.Generator], np.ndarray]
"""(rows of the pool in random order, their labels, samples wanted, a class, randomness) -> the rows that are drawn."""


def _nothing(rows: np.ndarray, labels: np.ndarray, n: int, target: int, random: np.random.Generator) -> np.ndarray:
    return rows[:n]


def _fewer(keep: float) -> Lose:
    def lose(rows: np.ndarray, labels: np.ndarray, n: int, target: int, random: np.random.Generator) -> np.ndarray:
        return rows[(labels != target) | (random.random(len(rows)) < keep)][:n]

    return lose


def _alike(rows: np.ndarray, labels: np.ndarray, n: int, target: int, random: np.random.Generator) -> np.ndarray:
    """Half of the classes show a tenth of their images again and again."""
    drawn, classes = rows[:n].copy(), int(labels.max()) + 1
    for each in range(classes):
        if (each + target) % 2 == 0:
            places = np.flatnonzero(labels[:n] == each)
            drawn[places] = drawn[np.resize(places[: max(1, len(places) // 10)], len(places))]
    return drawn


def _repeated(rows: np.ndarray, labels: np.ndarray, n: int, target: int, random: np.random.Generator) -> np.ndarray:
    return np.resize(rows[: n // 4], n)


LOSSES: Mapping[str, Lose] = {
    "nothing": _nothing,
    "one class removed": _fewer(0.0),
    "one class down to a fifth": _fewer(0.2),
    "half of the classes without variety": _alike,
    "each image four times": _repeated,
}


@dataclass(frozen=True)
class Task:
    data: str
    kinds: tuple[str, ...]
    """The changes, in their order; without any the images are as they were."""
    level: Level
    loss: str
    seed: int

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        return self.data, " + ".join(self.kinds) or "unchanged", self.level, self.loss, self.seed


def plan(half: str, data: Sequence[str], draws: int) -> Iterator[Task]:
    """Each kind of the half alone, then as many combinations of two of them, at each strength, with each loss."""
    names = DEVELOPMENT if half == "development" else HELDBACK
    changes: list[tuple[str, ...]] = [(), *((name,) for name in names), *combinations(names, len(names))]
    for seed in range(draws):
        for loss in LOSSES:
            for level in LEVELS:
                for kinds in changes:
                    for name in data:
                        if kinds or level == "mild":
                            yield Task(name, kinds, level, loss, seed)


@cache
def material(name: str) -> Material:
    return Material(name)


def row_of(task: Task) -> dict[str, Any]:
    there, started = material(task.data), time.perf_counter()
    random = np.random.default_rng([task.seed, 7])
    rows = random.permutation(len(there.pool))
    target = task.seed % len(there.names)
    chosen = LOSSES[task.loss](rows, there.pool_labels[rows], there.setting.samples, target, random)
    images, labels = there.pool[chosen], there.pool_labels[chosen]
    if task.kinds:
        images = changed(images, labels, task.kinds, task.level, _some(there), seed=task.seed)
    found = there.judge(images, labels)
    data, kinds, level, loss, seed = task.key
    return {
        "data": data, "kinds": kinds, "level": level, "loss": loss, "seed": seed, "verdict": found.verdict,
        "reasons": [str(reason) for reason in found.reasons[:3]], "of": list(dict.fromkeys(found.kinds)),
        "realism": round(found.realism, 3), "shift": round(found.shift, 3),
        "seconds": round(time.perf_counter() - started, 2), "detector": detector(),
    }  # fmt: skip


def _some(there: Material) -> tuple[np.ndarray, np.ndarray]:
    images, labels = there.reference_images
    return images[:4000], labels[:4000]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def key_of(row: Mapping[str, Any]) -> tuple[str, str, str, str, int]:
    return row["data"], row["kinds"], row["level"], row["loss"], row["seed"]


def run(path: Path, tasks: Sequence[Task], minutes: float) -> None:
    end = time.monotonic() + 60 * minutes
    there = {key_of(row) for row in read(path) if row["detector"] == detector()}
    left = [task for task in tasks if task.key not in there]
    with path.open("a") as file:
        for number, task in enumerate(left):
            if time.monotonic() > end:
                print(f"{len(left) - number} worlds are left: run this again", file=sys.stderr)
                return
            file.write(json.dumps(row_of(task)) + "\n")
            file.flush()
    print("complete", file=sys.stderr)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each data set, loss and strength, in Markdown."""
    lines = ["| data | lost | strength | worlds | ok | inconclusive | suspect | collapsed | bounds |", "|---" * 9 + "|"]
    keys = list(
        dict.fromkeys((r["data"], r["loss"], r["level"] if r["kinds"] != "unchanged" else "unchanged") for r in rows)
    )
    for data, loss, level in sorted(keys, key=str):
        mine = [
            r for r in rows
            if r["data"] == data and r["loss"] == loss
            and (level == "unchanged") == (r["kinds"] == "unchanged") and (level == "unchanged" or r["level"] == level)
        ]  # fmt: skip
        count = {v: sum(r["verdict"] == v for r in mine) for v in ("ok", "inconclusive", "suspect", "collapsed")}
        bound = (
            f"collapsed at most {upper_bound(count['collapsed'], len(mine)):.1%}" if loss == "nothing"
            else f"found at least {lower_bound(count['collapsed'] + count['suspect'], len(mine)):.1%}"
        )  # fmt: skip
        shares = " | ".join(f"{count[v] / len(mine):.1%}" for v in count)
        lines.append(f"| {data} | {loss} | {level} | {len(mine)} | {shares} | {bound} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--half", choices=("development", "heldback"), default="development")
    parser.add_argument("--data", default=",".join(SETTINGS))
    parser.add_argument("--draws", type=int, default=1, help="of each world")
    parser.add_argument("--loss", help="only this one")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    tasks = [t for t in plan(given.half, given.data.split(","), given.draws) if given.loss in (None, t.loss)]
    if given.what == "run":
        run(given.results, tasks, given.minutes)
    else:
        wanted = {task.key for task in tasks}
        print(table([row for row in read(given.results) if key_of(row) in wanted and row["detector"] == detector()]))


if __name__ == "__main__":
    main()
