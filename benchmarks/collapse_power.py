"""How often the collapse verdict is right, on real images in worlds whose diversity is known.

    python -m benchmarks.collapse_power run --minutes 7        (again and again, until it says: complete)
    python -m benchmarks.collapse_power table                  (what is there so far, as Markdown)
    python -m benchmarks.collapse_power cost                   (time and memory at 10,000 samples; --samples for others)

Each repetition draws generated-like and held-out images, without replacement and disjoint, from real images that the detector
did not see, and asks for one verdict. A line of JSON a repetition is appended to results/collapse_power*.jsonl, and the table
is worked out from these lines alone; each says of which detector it is (`detector`), and `run --anew` makes those of another
again. Worlds: `collapse_worlds.py`. One process, one thread (OMP_NUM_THREADS=1) is enough.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gantk_eval.collapse import verdict as verdict_module
from gantk_eval.collapse.calibration import PERMUTATIONS, Relabellings
from gantk_eval.collapse.known import Known
from gantk_eval.collapse.verdict import MOST_IMAGES, ClassEvidence, Evidence, Judgement, examine, knowledge_of
from gantk_eval.memorisation import MemorisationTest

from benchmarks import records
from benchmarks.collapse_worlds import GENERATORS, Set, World, available, load_world

RESULTS = Path(__file__).parent / "results" / "collapse_power.jsonl"
SAMPLES, HELDOUT, FEW = 2000, 5000, 200
FEWER_HELDOUT = {"quickstart": 1500}
"""Numbers of held-out images other than `HELDOUT`: the quickstart's."""
CHANGED_AND_LARGE = {"noise of 10/255": 15_000, "JPEG q30": 15_000, "blurred by 1 px": 15_000}
LARGE = {"mnist": {"real": 50_000, **CHANGED_AND_LARGE}, "cifar10": {"real": 35_000, **CHANGED_AND_LARGE}}
"""As many samples as there are real images for: where a tiny difference is significant, the effect must keep quiet."""


Make = Callable[[World, np.ndarray, int, np.random.Generator, int], Set]
"""(data, free rows of the pool, samples wanted, randomness, the class that it happens to) -> generated-like images."""


@dataclass(frozen=True)
class Case:
    """A world: how its samples are made of the pool's rows, what should be said of it, and whether labels are given."""

    name: str
    make: Make
    right: tuple[str, ...] = ()
    """The kinds of reason of which one must be named; none: there is nothing to name."""
    labelled: bool = False
    names_class: bool = False
    """Whether the reason must name the class that it happened to, each class in turn."""
    classes: bool = True
    """Whether a classifier says what images show, or they are known by their features alone, as without labels."""
    good: bool = False
    """True where the samples are as good as real ones, so that `ok` is right."""
    needs: str = ""
    """The set of changed images without which there is no such world."""


def _real(world: World, rows: np.ndarray, n: int, generator: np.random.Generator, target: int) -> Set:
    return world.pool.take(rows[:n])


def _fewer(keep: float) -> Make:
    def make(world: World, rows: np.ndarray, n: int, generator: np.random.Generator, target: int) -> Set:
        kept = rows[(world.pool.labels[rows] != target) | (generator.random(len(rows)) < keep)]
        return world.pool.take(kept[:n])

    return make


def _repeated(world: World, rows: np.ndarray, n: int, generator: np.random.Generator, target: int) -> Set:
    few = max(1, n // 4)  # 500 images for a set of 2,000
    return world.pool.take(np.resize(rows[:few], n))


def _changed(how: str) -> Make:
    def make(world: World, rows: np.ndarray, n: int, generator: np.random.Generator, target: int) -> Set:
        changed = world.changed[how]
        if how in GENERATORS:  # a generator's samples have no places in the pool
            return changed.take(generator.permutation(len(changed))[:n])
        return changed.take(rows[rows < len(changed)][:n])

    return make


def _swapped(world: World, rows: np.ndarray, n: int, generator: np.random.Generator, target: int) -> Set:
    found = world.pool.take(rows[:n])
    exchange = np.arange(len(world.class_names))
    other = (target + 2) % len(exchange)
    exchange[[target, other]] = other, target
    return replace(found, labels=exchange[found.labels])


def _ignored(world: World, rows: np.ndarray, n: int, generator: np.random.Generator, target: int) -> Set:
    found = world.pool.take(rows[:n])
    return replace(found, labels=generator.permutation(found.labels))


def _only(part: Callable[[Set], np.ndarray]) -> Make:
    """Of one class only those images are drawn that `part` picks out of all its images: as many as of the whole class."""

    def make(world: World, rows: np.ndarray, n: int, generator: np.random.Generator, target: int) -> Set:
        pool = world.pool
        mine = np.flatnonzero(pool.labels == target)
        picked = np.zeros(len(pool), dtype=bool)
        picked[mine[part(pool.take(mine))]] = True
        others = rows[pool.labels[rows] != target]
        alike = rows[picked[rows]]
        share = min(len(alike), round(n * len(mine) / len(pool)))
        return pool.take(np.concatenate([alike[:share], others[: n - share]]))

    return make


def _tenth(images: Set) -> np.ndarray:
    """The tenth nearest to the mean in pixels."""
    far = np.square(images.pixels - images.pixels.mean(axis=0)).sum(axis=1)
    return np.argsort(far)[: len(images) // 10]


def _quarter(images: Set) -> np.ndarray:
    """A quarter, cut off along the longest axis of its pixels: digits of one slant, photographs dark in one place."""
    features = (images.pixels - images.pixels.mean(axis=0)).astype(np.float64)
    axis = np.linalg.eigh(features.T @ features)[1][:, -1]
    axis = axis * (-1.0 if axis.sum() < 0 else 1.0)  # an axis's sign is arbitrary
    return np.argsort(features @ axis)[: len(images) // 4]


def _copies(world: World, rows: np.ndarray, n: int, generator: np.random.Generator, target: int) -> Set:
    return world.reference.take(generator.permutation(len(world.reference))[:n])


COPIES = "copies of training images"
CASES = {
    case.name: case
    for case in (
        Case("real", _real, good=True),
        Case("real, with labels", _real, labelled=True, good=True),
        Case("class removed", _fewer(0.0), ("lost class",), names_class=True),
        Case("class down to a fifth", _fewer(0.2), ("starved class", "lost class"), names_class=True),
        Case("500 images repeated", _repeated, ("duplicates",)),
        Case("nearest of 50 cluster means", _changed("means"), ("duplicates",)),
        Case("halfway to class mean", _changed("blend"), ("shrinkage",)),
        Case("one class all alike", _only(_tenth), ("class collapse",), labelled=True, names_class=True),
        Case("a quarter of one class", _only(_quarter), ("class collapse",), names_class=True),
        Case("labels of two classes swapped", _swapped, ("label swapped",), labelled=True, names_class=True),
        Case("labels ignored", _ignored, ("label ignored",), labelled=True),
        Case("blurred by 1 px", _changed("blur")),
        Case("noise of 10/255", _changed("noise")),
        Case("JPEG q30", _changed("jpeg")),
        Case("moved by 1 px", _changed("moved")),
        Case("bolder or brighter", _changed("toned")),
        Case("early checkpoint of a GAN", _changed("early"), needs="early"),
        Case("jittered", _changed("jittered"), good=True),
        Case("mixed with its nearest", _changed("mixed"), good=True),
        # In the first half of its training it draws ones and zeros that are much alike, as the eye sees too.
        *(
            Case(f"{role}, with labels", _changed(role), labelled=True, good=role in GENERATORS[3:], needs=role)
            for role in GENERATORS[1:]
        ),
        Case("no classes known: real", _real, classes=False),
        Case("no classes known: class removed", _fewer(0.0), ("lost mode", "starved mode"), classes=False),
        Case("no classes known: 500 images repeated", _repeated, ("duplicates",), classes=False),
        Case(COPIES, _copies),
    )
}
LOSSES = tuple(name for name, case in CASES.items() if case.right)


def cases_of(data: str) -> tuple[str, ...]:
    """The worlds of a data set; at the quickstart's sizes those of good generators and of its own."""
    return tuple(
        name for name, case in CASES.items() if data != "quickstart" or case.good or case.needs in GENERATORS[1:]
    )


def heldout_of(data: str) -> int:
    return FEWER_HELDOUT.get(data, HELDOUT)


def verdict_of(world: World, case: Case, seed: int, samples: int, heldout: int, known: Known) -> Judgement:
    """One repetition."""
    generator = np.random.default_rng([seed, samples])
    order = generator.permutation(len(world.pool))
    held, rest = order[:heldout], order[heldout:]
    fake, real, reference = (
        case.make(world, rest, samples, generator, target_of(world, seed)),
        world.pool.take(held),
        world.reference,
    )
    if len(fake) != samples:
        raise ValueError(f"{case.name} of {world.name} has only {len(fake)} of {samples} images")
    evidence = evidence_of(world, fake, real, reference, case.labelled)
    if not case.classes:
        deep = (fake.deep, real.deep, evidence.classes.reference) if evidence.classes is not None else None
        evidence = replace(evidence, classes=None, no_classes_because="", deep=deep)
    return examine(evidence, seed=seed, known=known, relabellings=relabellings(min(samples, MOST_IMAGES), heldout))


def target_of(world: World, seed: int) -> int:
    """The class that a repetition's loss happens to."""
    return seed % len(world.class_names)


@cache
def relabellings(samples: int, heldout: int) -> Relabellings:
    """The same for all repetitions: it is the images that are drawn anew."""
    return Relabellings.draw(samples, heldout, PERMUTATIONS, 0)


def evidence_of(world: World, fake: Set, real: Set, reference: Set, labelled: bool = False) -> Evidence:
    classes = ClassEvidence(
        fake.deep,
        real.deep,
        reference.deep[:10_000],
        fake.classes,
        real.classes,
        reference.classes[:10_000],
        world.confusion,
        world.class_names,
        fake.labels if labelled else None,
        real.labels if labelled else None,
        fake.logits,
        real.logits,
    )
    return Evidence(fake.pixels, real.pixels, reference.pixels[:10_000], classes)


# -- running ------------------------------------------------------------------------------------------------------------


@cache
def detector() -> str:
    """The first 12 digits of the sha256 of the verdict's sources."""
    sources = sorted(Path(verdict_module.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def plan(names: Sequence[str], repetitions: int, others: int, few: int) -> Iterator[tuple[str, str, int, int]]:
    """(data set, world, samples, seed), so ordered that a part of it is already a table with fewer repetitions."""
    block = 20
    for start in range(0, others, block):
        for data in names:
            for samples in (SAMPLES, FEW):
                for name in cases_of(data):
                    wanted = few if samples == FEW else repetitions if name.startswith("real") else others
                    for seed in range(start, min(wanted, others, start + block)):
                        yield data, name, samples, seed
    yield from _large(names)
    for name in (name for name in CASES if name.startswith("real")):
        for data in names:
            for seed in range(others, repetitions):
                yield data, name, SAMPLES, seed


def _large(names: Sequence[str]) -> Iterator[tuple[str, str, int, int]]:
    for data in names:
        for name, samples in LARGE.get(data, {}).items():
            # Of 150 real ones without an alarm, one knows that there is one in at most 2 %.
            for seed in range(150 if name == "real" else 20):
                yield data, name, samples, seed


def done(path: Path) -> list[dict[str, Any]]:
    """The rows that are there, each repetition once."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return list({(row["data"], row["world"], row["samples"], row["seed"]): row for row in rows}.values())


def row_of(world: World, case: Case, samples: int, seed: int, known: Known) -> dict[str, Any]:
    """One repetition as a row: the verdict, and whether the right reason was given, and first."""
    started = time.perf_counter()
    found = verdict_of(world, case, seed, samples, heldout_of(world.name), known)
    name = world.class_names[target_of(world, seed)]
    more = {"memorisation": memorised(world, case, seed, samples)} if case.name == COPIES and seed < 20 else {}
    right = [
        kind in case.right and (not case.names_class or f" {name} " in text)
        for kind, text in zip(found.kinds, found.reasons, strict=False)
    ]
    return {
        "data": world.name,
        "world": case.name,
        "samples": samples,
        "seed": seed,
        "verdict": found.verdict,
        "named": any(right),
        "first": bool(right) and right[0],
        "kinds": list(dict.fromkeys(found.kinds)),
        "realism": round(found.realism, 3),
        "shift": round(found.shift, 3),
        "seconds": round(time.perf_counter() - started, 3),
        "detector": detector(),
        **more,
    }


_MEMORISATION: dict[str, MemorisationTest] = {}


def memorised(world: World, case: Case, seed: int, samples: int) -> str:
    """What the test of memorisation says of copies; its held-out images are those of the first repetition."""
    if world.name not in _MEMORISATION:
        held = np.random.default_rng([0, samples]).permutation(len(world.pool))[:HELDOUT]
        _MEMORISATION[world.name] = MemorisationTest(world.pool.pixels[held], np.asarray(world.reference.pixels))
    fake = case.make(world, np.arange(len(world.pool)), samples, np.random.default_rng(seed), 0)
    return str(_MEMORISATION[world.name].judge(fake.pixels)["verdict"])


def run(
    path: Path, names: Sequence[str], minutes: float, repetitions: int, others: int, few: int, anew: bool = False
) -> None:
    """Works through what is left of the plan for so many minutes; `anew`: also through what another detector said."""
    end = time.monotonic() + minutes * 60
    kept = [row for row in done(path) if not anew or row.get("detector") == detector()]
    there = {(row["data"], row["world"], row["samples"], row["seed"]) for row in kept}
    worlds: dict[str, tuple[World, Known]] = {}
    path.parent.mkdir(exist_ok=True)
    left = [task for task in plan(names, repetitions, others, few) if task not in there]
    made = 0
    try:
        with path.open("a") as file:
            for number, (data, name, samples, seed) in enumerate(left):
                if time.monotonic() > end:
                    print(f"{len(left) - number} repetitions are left: run this again", file=sys.stderr)
                    return
                if data not in worlds:
                    world = load_world(data)
                    some = world.pool.take(np.arange(2))
                    worlds[data] = world, knowledge_of(evidence_of(world, some, some, world.reference))
                world, known = worlds[data]
                case = CASES[name]
                if case.needs and case.needs not in world.changed:
                    continue
                file.write(json.dumps(row_of(world, case, samples, seed, known)) + "\n")
                file.flush()
                made += 1
        print("complete", file=sys.stderr)
    finally:
        # Whose machine and versions the record names made rows.
        if made:
            rows = done(path)
            right = {data: round(world.accuracy, 4) for data, (world, _) in worlds.items()}
            records.write(
                path.stem, {"rows": len(rows), "detectors": detectors(rows), "classifier_right": right}, path.parent
            )


def detectors(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many rows each detector made."""
    return dict(Counter(str(row.get("detector", "older")) for row in rows))


# -- the table ----------------------------------------------------------------------------------------------------------


def upper_bound(hits: int, count: int, level: float = 0.95) -> float:
    """Clopper & Pearson's one-sided upper bound of a proportion."""
    from scipy.stats import beta

    return 1.0 if hits >= count else float(beta.ppf(level, hits + 1, count - hits))


def lower_bound(hits: int, count: int, level: float = 0.95) -> float:
    """Clopper & Pearson's one-sided lower bound."""
    return 1.0 - upper_bound(count - hits, count, level)


def table(rows: list[dict[str, Any]]) -> str:
    """All worlds at both numbers of samples, as Markdown."""
    lines = []
    sizes = dict.fromkeys((row["samples"], heldout_of(row["data"])) for row in rows)
    first = {SAMPLES: 0, FEW: 1}
    for samples, heldout in sorted(sizes, key=lambda size: (first.get(size[0], 2), size[0], -size[1])):
        lines += [
            f"**{samples:,} samples, {heldout:,} held-out images**",
            "",
            "| data | world | repetitions | ok | suspect | collapsed | inconclusive | right reason | first | |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for data in dict.fromkeys(row["data"] for row in rows if heldout_of(row["data"]) == heldout):
            for name, case in CASES.items():
                mine = [r for r in rows if (r["data"], r["world"], r["samples"]) == (data, name, samples)]
                if mine:
                    lines.append(_line(data, name, case, mine))
        lines.append("")
    made = ", ".join(f"{count:,} by `{name}`" for name, count in detectors(rows).items())
    return "\n".join([*lines, f"Rows: {made}."])


def _line(data: str, name: str, case: Case, rows: list[dict[str, Any]]) -> str:
    count = len(rows)
    verdicts = Counter(row["verdict"] for row in rows)
    found = verdicts["collapsed"] + verdicts["suspect"]
    shares = [f"{verdicts[v] / count:.1%}" for v in ("ok", "suspect", "collapsed", "inconclusive")]
    named = first = ""
    if case.right:
        named, first = (f"{sum(row[key] for row in rows) / count:.1%}" for key in ("named", "first"))
        note = f"found in {found / count:.1%}, at least {lower_bound(found, count):.1%}"
    elif case.good:
        other = count - verdicts["ok"]
        note = f"not `ok` in {other / count:.1%}, at most {upper_bound(other, count):.1%}"
        if found:
            note += f"; false alarms {found / count:.1%}"
    elif name == COPIES:
        told = [row["memorisation"] == "memorised" for row in rows if "memorisation" in row]
        note = f"memorisation reported in {np.mean(told):.1%} of {len(told)}; "
        note += f"`collapsed` at most {upper_bound(verdicts['collapsed'], count):.1%}"
    else:
        note = f"`collapsed` at most {upper_bound(verdicts['collapsed'], count):.1%}"
    return f"| {data} | {name} | {count} | {' | '.join(shares)} | {named} | {first} | {note} |"


# -- cost ---------------------------------------------------------------------------------------------------------------


def cost(data: str, samples: int, heldout: int, deep: int = 0) -> dict[str, Any]:
    """Seconds and peak memory of one verdict on real images, features given and nothing worked out beforehand, with the
    verdict on memorisation.

    `deep`: beside classes and labels, features of so many dimensions, as many as Inception's 2,048: the classifier's,
    projected at random into them, with noise.
    """
    world = load_world(data)
    generator = np.random.default_rng(0)
    order = generator.permutation(len(world.pool))
    fake, real = world.pool.take(order[heldout : heldout + samples]), world.pool.take(order[:heldout])
    evidence = evidence_of(world, fake, real, world.reference, labelled=bool(deep))
    if deep:
        spread = generator.standard_normal((world.pool.deep.shape[1], deep), dtype=np.float32)
        sets = (fake.deep, real.deep, world.reference.deep[:10_000])
        wide = [x @ spread + generator.standard_normal((len(x), deep), dtype=np.float32) for x in sets]
        evidence = replace(evidence, deep=(wide[0], wide[1], wide[2]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, used = time.perf_counter(), time.process_time()
    found = examine(evidence)
    MemorisationTest(real.pixels, np.asarray(world.reference.pixels)).judge(fake.pixels)
    return {
        "data": data,
        "features": f"pixels, classes, labels and {deep} dimensions" if deep else "pixels and classes",
        "samples": len(fake),
        "heldout": heldout,
        "verdict": found.verdict,
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(time.process_time() - used, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "before_mb": before // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table", "cost"))
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--repetitions", type=int, default=500, help="of real data")
    parser.add_argument("--others", type=int, default=100, help="of every other world")
    parser.add_argument("--few", type=int, default=40, help=f"of every world at {FEW} samples")
    parser.add_argument("--anew", action="store_true", help="run: make the rows of another detector again")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--data", help="mnist, cifar10, quickstart or digits; run: the first two")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--heldout", type=int, default=10_000)
    parser.add_argument(
        "--deep", type=int, default=0, help="cost: beside classes and labels, features of so many dimensions"
    )
    options = parser.parse_args()
    if options.what == "run":
        run(
            options.results,
            [options.data] if options.data else available(),
            options.minutes,
            options.repetitions,
            options.others,
            options.few,
            options.anew,
        )
    elif options.what == "table":
        files = sorted(options.results.parent.glob(f"{options.results.stem}*.jsonl"))
        print(table([row for file in files for row in done(file)]))
    else:
        found = cost(options.data or available()[0], options.samples, options.heldout, options.deep)
        print(json.dumps(found))
        records.write(f"collapse_cost{f'_{options.deep}' if options.deep else ''}", found)


if __name__ == "__main__":
    main()
