"""Evaluation where the modes of the data are known: mode counts, and a verdict that needs no held-out samples.

The null is not estimated here but known: a perfect sampler of the same distribution. Each number stands beside what that
sampler reaches with as many samples (mean, and where 99 % of its repetitions lie).
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from gantk_eval import distributed
from gantk_eval.collapse.calibration import ALPHA, DROPPED, STARVED, Severity, TestResult, at_least, holm
from gantk_eval.collapse.known_picture import Mark, draw_points
from gantk_eval.errors import DataError, UserError
from gantk_eval.mixture import Floor, Measures, Mixture, floors, measure, truncated_moments
from gantk_eval.protocol import Protocol as ScoreProtocol
from gantk_eval.report import Report, score

__all__ = ["GeneratedPoints", "KnownModesEvaluator", "MixtureEvaluator", "SampleSet", "weigh"]

SHRUNKEN, NARROW = 0.5, 0.8
"""A mode has collapsed on itself, or is suspect, where the upper 99 % bound of its spread over the true one is below this."""
DUPLICATED, REPEATED = 0.2, 0.05
FEWEST_GOOD = 0.5
"""Below this share of samples of high quality modes are not judged, and nothing is called `ok`."""
FEWEST_IN_MODE = 10
FEWEST_FOR_EXTENT = 20


class SampleSet(Protocol):
    """Random access to N samples: `gantk_eval.ImageSet` is one, `GeneratedPoints` another."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """[n, …], in the order of `indices`."""

    def fingerprint(self) -> str: ...


class GeneratedPoints:
    """Vectors that a function makes by global index: `generate(indices int64 [n]) -> float [n, d]`.

    `identity` stands for the model and seed in the fingerprint.
    """

    def __init__(
        self,
        count: int,
        generate: Callable[[np.ndarray], np.ndarray],
        *,
        identity: str,
        name: str = "generated samples",
    ) -> None:
        if count < 1:
            raise DataError(f"{name}: {count} samples asked for; ask for at least one")
        self.name, self.identity = name, identity
        self._count, self._generate = count, generate

    def __len__(self) -> int:
        return self._count

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """float64 [n, d], made now."""
        return np.asarray(self._generate(np.asarray(indices, dtype=np.int64)), dtype=np.float64)

    def fingerprint(self) -> str:
        """sha256 of identity and count."""
        return hashlib.sha256(f"gantk-points-1 {self._count} {self.identity}".encode()).hexdigest()


class KnownModesEvaluator(ABC):
    """Evaluates samples against modes that are known; the counterpart of `Evaluator`, with the same report.

    `metrics`: names out of `names`; None takes all. `batch_size`: samples a chunk. With `torch.distributed` initialised, all
    ranks call `evaluate` together, and each gets the same report. Raises UserError for a metric that there is not.
    """

    names: tuple[str, ...]
    extractor: str
    """What the protocol says of how modes are recognised."""

    def __init__(
        self,
        *,
        metrics: Sequence[str] | None = None,
        seed: int = 0,
        batch_size: int = 100,
        check: Callable[[], None] = distributed.no_check,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"the batch size of the evaluation is {batch_size}; give at least 1")
        if metrics is not None and not metrics:
            raise UserError(f"no metrics are named; for data whose modes are known choose from {', '.join(self.names)}")
        if other := [name for name in metrics or () if name not in self.names]:
            raise UserError(
                f"there is no metric {', '.join(other)} for data whose modes are known; choose from {', '.join(self.names)}"
            )
        self.metrics = tuple(metrics or self.names)
        self.seed, self.batch_size, self.check = seed, batch_size, check

    @abstractmethod
    def _look(self, samples: np.ndarray) -> np.ndarray:
        """What a chunk of samples comes down to, [n, …]; computed where the samples are made."""

    @abstractmethod
    def _judge(self, looked: np.ndarray) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """The entries of all metrics, and the verdict."""

    @abstractmethod
    def _draw(self, looked: np.ndarray, collapse: dict[str, Any], fake: Any) -> bytes:
        """The picture of the verdict as PNG."""

    @abstractmethod
    def _protocol(self, count: int, fake_sha256: str) -> ScoreProtocol: ...

    def prepare(self) -> None:  # noqa: B027 - most have nothing to prepare
        """What takes long and depends on the data alone; `evaluate` does it where it has not been done."""

    def evaluate(self, fake: SampleSet) -> Report:
        """Scores, floors and verdict of generated samples, the same on every rank; the picture is on the first alone."""
        self.prepare()
        rows: list[np.ndarray] = []
        mine = distributed.in_chunks(
            len(fake), self.batch_size, lambda chunk: rows.append(self._look(fake.read(chunk))), self.check
        )

        def work() -> tuple[np.ndarray, ...]:
            if not rows:  # a rank without a chunk still takes part in the gathering
                rows.append(self._look(fake.read(np.arange(1)))[:0])
            return np.concatenate([*mine, np.empty(0, dtype=np.int64)]), np.concatenate(rows)

        indices, looked = distributed.all_or_none(work)
        looked = distributed.gather_rows(indices, looked, len(fake))

        pictures: list[bytes] = []

        def report() -> bytes:
            metrics, collapse = self._judge(looked)
            pictures.append(self._draw(looked, collapse, fake))
            protocol = self._protocol(len(fake), fake.fingerprint()).to_dict()
            chosen = {name: metrics[name] for name in self.metrics}
            return Report(chosen, collapse, protocol).to_json(indent=None).encode()

        found = Report.from_dict(json.loads(distributed.from_first(report)))
        return replace(found, picture=pictures[0] if pictures else None)


def entry(
    value: float, floor: Floor | None, count: int, n_real: int, *, without: str = "", **more: Any
) -> dict[str, Any]:
    """A metric's entry with a perfect sampler's mean as the floor, and its 99 % range as `floor_low`, `floor_high`.

    `without`: why there is no `value`, where it is not a number, or no `floor`, where that is None.
    """
    reasons = {}
    known = value if math.isfinite(value) else None
    if known is None:
        reasons["value"] = without
    # With few samples some repetitions have none of what is measured (the spread of a mode of ten samples).
    if floor is None:
        reasons["floor"] = without
    elif not math.isfinite(floor.mean):
        reasons["floor"], floor = f"{count:,} samples of a perfect sampler do not always give one", None
    if reasons:
        more["none_because"] = reasons
    if floor is None:
        return score(known, n_fake=count, n_real=n_real, **more)
    between = {"floor_low": floor.low, "floor_high": floor.high}
    return score(known, n_fake=count, n_real=n_real, floor=floor.mean, floor_n=count, **between, **more)


def weigh(tests: list[TestResult], calm: str, doubts: list[str]) -> dict[str, Any]:
    """The verdict from tests in their order of precedence: those that fired, else `doubts`, else too little power, else ok."""
    for test, adjusted in zip(tests, holm([test.p for test in tests]), strict=True):
        test.p_adjusted = adjusted
        test.settle_outcome()
    fired = [test for test in tests if test.outcome == "fired"]
    result: dict[str, Any] = {"missing": [mode for test in fired for mode in test.missing]}
    weak = [test.weakness for test in tests if not test.powerful]
    if fired:
        verdict = "collapsed" if any(test.severity == "collapsed" for test in fired) else "suspect"
        result |= {"verdict": verdict, "reasons": [reason for test in fired for reason in test.reasons] + doubts}
    elif doubts or weak:
        result |= {"verdict": "inconclusive", "reasons": doubts + weak}
    else:
        result |= {"verdict": "ok", "reasons": [calm]}
    return {**result, "tests": [test.to_dict() for test in tests]}


class MixtureEvaluator(KnownModesEvaluator):
    """Exact mode counts of points in the plane. `n_real`: how many points were trained on, for the report."""

    names = ("modes", "high_quality", "reverse_kl", "mode_spread", "least_spread")
    extractor = "known_mixture"

    def __init__(self, mixture: Mixture, *, n_real: int, **options: Any) -> None:
        super().__init__(**options)
        self.mixture, self.n_real = mixture, n_real

    def _look(self, samples: np.ndarray) -> np.ndarray:
        return samples

    def _judge(self, looked: np.ndarray) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        found = measure(looked, self.mixture)
        perfect = floors(self.mixture, found.count)
        without = {
            "mode_spread": "no sample is within 3σ of a mode",
            "least_spread": f"no mode has {FEWEST_IN_MODE} samples within 3σ",
        }
        entries = {
            name: entry(getattr(found, name), perfect[name], found.count, self.n_real, without=without.get(name, ""))
            for name in self.names
        }
        entries["modes"] |= {"of": self.mixture.modes, "each": _each(found, self.mixture)}
        return entries, judge_mixture(found, self.mixture)

    def _draw(self, looked: np.ndarray, collapse: dict[str, Any], fake: Any) -> bytes:
        marks = marks_of(collapse, measure(looked, self.mixture), self.mixture)
        return draw_points(collapse["verdict"], collapse["reasons"], looked, self.mixture, marks)

    def _protocol(self, count: int, fake_sha256: str) -> ScoreProtocol:
        return ScoreProtocol(
            extractor=f"{self.extractor}:{self.mixture.name}",
            weights_sha256="",
            resize="none",
            precision="fp64",
            shape=(1, 1, 2),
            n_fake=count,
            n_real=self.n_real,
            seed=self.seed,
            reference_sha256=self.mixture.fingerprint(),
            fake_sha256=fake_sha256,
            software={"numpy": np.__version__, "world_size": str(distributed.world_size())},
        )


def _each(found: Measures, mixture: Mixture) -> list[dict[str, Any]]:
    """Mode by mode: its place, the samples nearest to it, how many of them are within 3σ, and their spread over the true one
    (None for fewer than two)."""
    return [
        {
            "mode": _place(mixture, mode),
            "nearest": int(found.assigned[mode]),
            "high_quality": int(found.good[mode]),
            "spread": float(spread) if found.good[mode] > 1 else None,
        }
        for mode, spread in enumerate(found.spreads)
    ]


def judge_mixture(found: Measures, mixture: Mixture) -> dict[str, Any]:
    """The verdict on samples of a known mixture: {verdict, reasons, tests, missing}.

    In this order of precedence: the extent of the whole; repeated points; lost and starved modes, by the samples nearest to
    each (a mode that is hit beside its middle is poor quality, not collapse); modes that have shrunk. Where less than half of
    the samples are within 3σ of a mode, the last two say nothing: only the first two are tested, and without a finding of
    theirs the verdict is `inconclusive`. Under a perfect sampler the p of the second and third is exact or an upper bound, the
    others' is of normal and exponential laws; Holm over those that are tested at 1 %.
    """
    good = found.high_quality
    calm = f"{found.modes} of {mixture.modes} modes, none starved or shrunken; no point is repeated"
    whole = [_extent(found, mixture), _repeated(found, mixture)]
    if good < FEWEST_GOOD:
        doubt = f"quality: only {good:.1%} of samples are within 3σ of a mode, so its modes cannot be judged"
        return weigh(whole, calm, [doubt])
    missed = np.flatnonzero((found.good == 0) & (found.assigned * mixture.modes >= DROPPED * found.count))
    doubts = [
        f"quality: {found.assigned[mode]:,} samples are nearest to mode {_place(mixture, mode)}, none within 3σ of it"
        for mode in missed
    ]
    return weigh([*whole, _lost(found, mixture), _shrunken(found, mixture)], calm, doubts)


def marks_of(collapse: dict[str, Any], found: Measures, mixture: Mixture) -> list[Mark]:
    """The modes that a verdict of `judge_mixture` calls lost, starved or shrunken."""
    places = {_place(mixture, mode): mode for mode in range(mixture.modes)}
    marks = [
        Mark(places[lost["mode"]], (lost["mode"], f"{lost['seen']:,} of {lost['expected']:,}"), lost=True)
        for lost in collapse["missing"]
    ]
    if any(test["name"] == "shrinkage" and test["p_adjusted"] <= ALPHA for test in collapse["tests"]):
        spreads = _spreads(found)
        for index in spreads.small:
            mode = int(spreads.judged[index])
            lines = (_place(mixture, mode), f"spread {spreads.spread[index]:.2g}")
            marks.append(Mark(mode, lines, lost=False))
    return marks


def _place(mixture: Mixture, mode: int | np.integer[Any]) -> str:
    x, y = mixture.means[mode]
    return f"({x:.3g}, {y:.3g})"


def _severity(upper: float, collapsed: float, suspect: float) -> Severity:
    return "collapsed" if upper < collapsed else "suspect" if upper < suspect else "none"


def _repeated(found: Measures, mixture: Mixture) -> TestResult:
    from scipy.stats import poisson

    from gantk_eval.mixture import DUPLICATE

    # A point's chance of another within d: the mean density is 1 / (4 π σ² K), as the modes do not overlap.
    rate = min(1.0, (found.count - 1) * DUPLICATE**2 / (4 * mixture.modes))
    share = found.duplicates / found.count
    result = TestResult(
        name="duplicates",
        statistic=share,
        null_mean=rate,
        effect=share - rate,
        # They come in pairs.
        p=float(poisson.sf(math.ceil(found.duplicates / 2) - 1, found.count * rate / 2)) if found.duplicates else 1.0,
        severity=at_least(share, DUPLICATED, REPEATED),
    )
    if result.severity != "none":
        result.reasons.append(f"{found.duplicates:,} of {found.count:,} samples are repeated points")
    return result


def _lost(found: Measures, mixture: Mixture) -> TestResult:
    from scipy.stats import beta, binom

    size, count = mixture.modes, found.count
    expected = count / size
    p = np.minimum(1.0, size * binom.cdf(found.assigned, count, 1 / size))
    upper = size * beta.ppf(0.99, found.assigned + 1, np.maximum(count - found.assigned, 1e-9))
    lost = np.flatnonzero((p <= ALPHA) & (upper < STARVED))
    lowest = float(found.assigned.min() / expected)
    result = TestResult(
        name="lost_modes",
        statistic=lowest,
        null_mean=1.0,
        effect=1 - min(1.0, lowest),
        p=float(p.min()),
        severity=_severity(float(upper[lost].min()), DROPPED, STARVED) if len(lost) else "none",
    )
    dropped = upper[lost] < DROPPED
    for mode, gone in sorted(zip(lost.tolist(), dropped.tolist(), strict=True), key=lambda pair: not pair[1]):
        seen, word = int(found.assigned[mode]), "dropped" if gone else "starved"
        name = _place(mixture, mode)
        result.reasons.append(f"mode {name} has {seen:,} of an expected {expected:,.0f} samples ({word})")
        result.missing.append({"mode": name, "expected": round(expected), "seen": seen})
    # With no sample at all in a mode, would the bound have shown it?
    if size * (1 - 0.01 ** (1 / count)) >= DROPPED:
        result.powerful = False
        needed = math.ceil(math.log(0.01) / math.log1p(-DROPPED / size))
        result.weakness = f"{count:,} samples are too few to tell that one of {size} modes is lost; draw {needed:,}"
    return result


def _extent(found: Measures, mixture: Mixture) -> TestResult:
    """The spread of all samples about their mean, over the mixture's.

    Under a perfect sampler of n points its square is 1 + a normal variable (of the mean of |x|²) - an exponential one (of the
    squared distance of their mean from the mixture's, which is 1 / n on average where both axes are alike).
    """
    from scipy.stats import exponnorm

    if found.count < FEWEST_FOR_EXTENT:
        result = TestResult("extent", found.spread_all, 1.0, 0.0, 1.0, "none", powerful=False)
        result.weakness = (
            f"{found.count} samples are too few to tell how far they spread; draw {FEWEST_FOR_EXTENT} or more"
        )
        return result
    # The variance of |x|², with |x|² = |m|² + 2 m·e + |e|² for a mean m and noise e.
    norms = (mixture.means**2).sum(axis=1)
    variance = norms.var() + 4 * norms.mean() * mixture.std**2 + 4 * mixture.std**4
    mean = norms.mean() + 2 * mixture.std**2
    error = math.sqrt(variance / found.count) / mean
    ratio = found.spread_all
    result = TestResult(
        name="extent",
        statistic=ratio,
        null_mean=1.0,
        effect=1 - min(1.0, ratio),
        p=float(exponnorm.sf(-(ratio**2), 1 / (found.count * error), loc=-1.0, scale=error)),
        severity=_severity(ratio * (1 + 2.33 * error), DROPPED, STARVED),
    )
    if result.severity != "none":
        result.reasons.append(f"all samples together spread {ratio:.2g} times as far as the mixture")
    return result


@dataclass(frozen=True)
class _Spreads:
    """Of the modes with enough samples, `judged` [m]: the spread over the true one, its p, and its upper bound."""

    judged: np.ndarray
    spread: np.ndarray
    p: np.ndarray
    upper: np.ndarray

    @property
    def small(self) -> np.ndarray:
        """Places in `judged` of the modes that have shrunk."""
        return np.flatnonzero((self.p <= ALPHA) & (self.upper < NARROW))


def _spreads(found: Measures) -> _Spreads:
    from scipy.stats import chi2, norm

    judged = np.flatnonzero(found.good >= FEWEST_IN_MODE)
    mean, variance = truncated_moments()
    number = found.good[judged]
    squares = found.squares[judged] / number
    p = np.minimum(1.0, len(judged) * norm.cdf((squares - mean) / np.sqrt(variance / number)))
    # As of a Gaussian that is not cut, whose variance is the larger: the bound errs on the side of `none`.
    upper = np.sqrt(squares / mean * 2 * number / chi2.ppf(0.01, 2 * number))
    return _Spreads(judged, np.sqrt(squares / mean), p, upper)


def _shrunken(found: Measures, mixture: Mixture) -> TestResult:
    modes = _spreads(found)
    result = TestResult("shrinkage", 1.0, 1.0, 0.0, 1.0, "none")
    if not len(modes.judged):
        result.powerful = False
        result.weakness = f"no mode has {FEWEST_IN_MODE} samples within 3σ, so their spread cannot be judged"
        return result
    spread, small = modes.spread, modes.small
    result.statistic, result.effect, result.p = (
        float(spread.min()),
        float(1 - min(1.0, spread.min())),
        float(modes.p.min()),
    )
    if len(small):
        result.severity = _severity(float(modes.upper[small].min()), SHRUNKEN, NARROW)
        worst = small[spread[small].argmin()]
        result.reasons.append(
            f"{len(small)} of {len(modes.judged)} modes {'has' if len(small) == 1 else 'have'} shrunk; mode "
            f"{_place(mixture, modes.judged[worst])} spreads {spread[worst]:.2g} times as far as it should"
        )
    return result
