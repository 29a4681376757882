"""Stacked MNIST: a thousand modes (three digits as the channels of one image), counted by a classifier that makes mistakes.

Protocol of Metz et al. 2017 (unrolled GAN), as PacGAN (Lin et al. 2018) uses it: 26,000 generated images, each channel read
by a digit classifier, the number of the 1,000 triples seen, and KL(generated ‖ uniform) of their histogram in nats.

A triple is seen for two reasons: the generator makes it, or the classifier misreads one of its neighbours. At 1 % errors a
digit, a generator of 300 modes would count as 646. So a mode counts only where its images are more than misreading explains:
the classifier's confusion, counted on real digits that it was not trained on, gives the expected number of misread images of
each mode, with the uncertainty that few test digits leave.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from gantk_eval import distributed
from gantk_eval.collapse.calibration import ALPHA, DROPPED, TestResult, at_least, permutation_p
from gantk_eval.collapse.classes import confusion_rows, corrected_shares
from gantk_eval.collapse.known_picture import stacks_to_show
from gantk_eval.collapse.neighbours import nearest_distance
from gantk_eval.collapse.picture import draw
from gantk_eval.collapse.quality import FEWEST_CERTAIN, FEWEST_REALISTIC, clarity
from gantk_eval.errors import DataError
from gantk_eval.extractors.classifier import ClassifierExtractor
from gantk_eval.images import ImageSet
from gantk_eval.known_modes import KnownModesEvaluator, entry, weigh
from gantk_eval.mixture import Floor, reverse_kl
from gantk_eval.protocol import Protocol

__all__ = [
    "DIGITS",
    "MODES",
    "StackedEvaluator",
    "StackedMeasures",
    "floors",
    "judge_stacked",
    "measure",
    "misread",
    "mode_of",
]

DIGITS = 10
MODES = DIGITS**3
LOST, UNEVEN, COPIED = 0.02, 0.5, 0.2
"""The effects from which the verdict is `collapsed`: the share of modes lost, of evenness lost, of exact copies."""
REAL_DIGITS = 10_000
"""Real digits that say how clear a digit is, and how near to each other digits of a class are."""


def mode_of(digits: np.ndarray) -> np.ndarray:
    """int [n, 3], digits of the three channels, to modes 0 … 999."""
    return (digits * np.array([100, 10, 1])).sum(axis=1)


@dataclass(frozen=True)
class StackedMeasures:
    """`counts` int64 [1000]: images read as each mode. `covered` bool [1000]: modes seen more often than misreading
    explains."""

    counts: np.ndarray
    covered: np.ndarray

    @property
    def modes(self) -> int:
        """The number of modes, corrected for the classifier's errors."""
        return int(self.covered.sum())

    @property
    def modes_raw(self) -> int:
        """The number of modes read at least once: what the published tables count."""
        return int(np.count_nonzero(self.counts))

    @property
    def reverse_kl(self) -> float:
        """KL(generated ‖ uniform) of the modes as read, in nats, as in the published tables."""
        return reverse_kl(self.counts)


def _posterior(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and second moments [10, 10] of P(read as j | is i), from counts and a Dirichlet prior of weight 1/10 a cell."""
    weights = confusion + 1.0 / DIGITS
    total = weights.sum(axis=1, keepdims=True)
    mean = weights / total
    return mean, mean * (weights + 1) / (total + 1)


def misread(counts: np.ndarray, confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each mode the number of images of *other* modes that are read as it: mean and variance, float64 [1000].

    `counts` [1000]: images of each mode. `confusion` [true, read]: counts on test digits. The channels are read one by one,
    so P(read as abc | is ABC) is a product of three cells. The variance has two parts: the binomial one of the reading, and
    that of the cells themselves, which matters where a few modes hold most images.
    """
    cube = counts.reshape(DIGITS, DIGITS, DIGITS).astype(np.float64)

    def read_as(cells: np.ndarray, weights: np.ndarray) -> np.ndarray:
        everything = np.einsum("abc,ai,bj,ck->ijk", weights, cells, cells, cells, optimize=True)
        right = np.diagonal(cells)
        return everything - weights * right[:, None, None] * right[None, :, None] * right[None, None, :]

    first, second = _posterior(confusion)
    mean = read_as(first, cube)
    squared = cube**2
    # Var(n p) = n² (E p² − (E p)²) of each source; those that share a cell are taken as independent.
    uncertain = read_as(second, squared) - read_as(first**2, squared)
    return mean.ravel(), (mean + np.maximum(uncertain, 0.0)).ravel()


def measure(modes: np.ndarray, confusion: np.ndarray) -> StackedMeasures:
    """From the modes as read, int64 [n] in 0 … 999, and the classifier's confusion [true, read] on test digits.

    A mode is covered where misreading does not explain its images, the number misread being negative binomial with the mean
    and variance of `misread`. Of the modes that are counted at most 1 % are expected to be false (Benjamini and Hochberg
    1995 over the thousand p values).
    """
    return measure_counts(np.bincount(modes, minlength=MODES), confusion)


def measure_counts(counts: np.ndarray, confusion: np.ndarray) -> StackedMeasures:
    """The same from the number of images read as each mode, int64 [1000]."""
    from scipy.stats import nbinom, poisson

    mean, variance = misread(counts, confusion)
    excess = variance - mean
    over = excess > 1e-9 * np.maximum(mean, 1e-12)
    size = mean**2 / np.where(over, excess, 1.0)
    chance = np.where(over, size / np.maximum(size + mean, 1e-300), 0.5)
    p = np.where(
        over,
        nbinom.sf(counts - 1, np.maximum(size, 1e-12), chance),
        poisson.sf(counts - 1, mean),
    )
    p = np.where(counts > 0, p, 1.0)
    order = np.argsort(p, kind="stable")
    passed = np.flatnonzero(p[order] <= ALPHA * np.arange(1, MODES + 1) / MODES)
    covered = np.zeros(MODES, dtype=bool)
    covered[order[: passed[-1] + 1 if len(passed) else 0]] = True
    return StackedMeasures(counts, covered)


def floors(
    confusion: np.ndarray, count: int, shares: np.ndarray | None = None, *, repetitions: int = 1999, seed: int = 1
) -> dict[str, Floor]:
    """What a perfect sampler reaches with `count` images under this classifier, by simulation: `modes`, `reverse_kl`.

    `shares` [10]: of the digits in each channel; None for equal ones. MNIST's own are not equal, which alone puts 0.004 on
    the KL of its stacks against the uniform distribution.
    """
    drawn = _simulated(*_hashable(confusion, shares), count, repetitions, seed)
    ranges = [(values.mean(), *np.quantile(values, [0.005, 0.995])) for values in drawn]
    return {name: Floor(*map(float, r)) for name, r in zip(("modes", "reverse_kl"), ranges, strict=True)}


def _hashable(confusion: np.ndarray, shares: np.ndarray | None) -> tuple[bytes, bytes]:
    shares = np.full(DIGITS, 1 / DIGITS) if shares is None else np.asarray(shares, dtype=np.float64)
    return np.ascontiguousarray(confusion, dtype=np.int64).tobytes(), shares.tobytes()


@lru_cache(maxsize=16)
def _simulated(
    confusion: bytes, shares: bytes, count: int, repetitions: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mode counts and KLs [repetitions] of a perfect sampler."""
    table = np.frombuffer(confusion, dtype=np.int64).reshape(DIGITS, DIGITS)
    rows = (table + 1e-9 * np.eye(DIGITS)) / (table + 1e-9 * np.eye(DIGITS)).sum(axis=1, keepdims=True)
    read = np.frombuffer(shares, dtype=np.float64) @ rows
    stacks = np.einsum("i,j,k->ijk", read, read, read).ravel()
    drawn = np.random.default_rng(seed).multinomial(count, stacks / stacks.sum(), size=repetitions)
    found = [measure_counts(counts, table) for counts in drawn]
    return np.array([f.modes for f in found]), np.array([f.reverse_kl for f in found])


class StackedEvaluator(KnownModesEvaluator):
    """Mode count and KL of Stacked MNIST, by a classifier of digits that is trained here.

    `digits`: real digits with labels 0 … 9 and one channel, uint8; `n_real`: how many stacks were trained on. Generated
    images are uint8 [n, H, W, 3]. Raises DataError, in `prepare`, where the classifier is not good enough to count with.
    """

    names = ("modes", "modes_raw", "reverse_kl")
    extractor = "classifier"

    def __init__(
        self, digits: ImageSet, *, n_real: int, device: Any = "cpu", progress: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self._digits, self._device, self._progress, self.n_real = digits, device, progress, n_real
        self._classifier: ClassifierExtractor | None = None
        self._clear = np.full(DIGITS, -np.inf)
        self._near: list[np.ndarray] = []
        self._reach = np.zeros(DIGITS)
        if digits.labels is None or digits.labels.max() >= DIGITS:
            raise DataError(f"{digits.name} needs labels 0 … 9, the digits: stacks are counted by them")
        self._shares = np.bincount(digits.labels, minlength=DIGITS) / len(digits)

    @property
    def classifier(self) -> ClassifierExtractor:
        self.prepare()
        assert self._classifier is not None
        return self._classifier

    def prepare(self) -> None:
        if self._classifier is None:
            self._classifier = ClassifierExtractor(
                self._digits,
                seed=self.seed,
                device=self._device,
                progress=self._progress and distributed.rank() == 0,
                check=self.check,
            )
            self._learn_real_digits(self._classifier)

    def _learn_real_digits(self, classifier: ClassifierExtractor) -> None:
        """By the class that real digits are read as: how clear the middle one is, and how far 95 % of one half of them are from
        the nearest of the other half, which is kept."""
        some = np.random.default_rng(self.seed).permutation(len(self._digits))[:REAL_DIGITS]
        pixels = self._digits.read(np.sort(some))
        logits = classifier.logits(classifier.features(pixels))
        first = np.arange(len(pixels)) % 2 == 0
        for digit in range(DIGITS):
            mine = logits.argmax(1) == digit
            near, others = _flat(pixels[mine & first]), _flat(pixels[mine & ~first])
            self._near.append(near)
            if mine.any():  # a little less than the middle one: ties are no lack of clarity
                self._clear[digit] = np.median(clarity(logits[mine])) - 1e-9
            if len(near) and len(others):
                self._reach[digit] = np.quantile(nearest_distance(others, near), 0.95)

    def _looks_real(self, pixels: np.ndarray, read: np.ndarray) -> np.ndarray:
        """Whether channels uint8 [n, H, W, 1] are as near to a real digit of the class that they are read as, int64 [n], as 95 %
        of real ones are, bool [n]. A classifier is certain of noise and of faded digits, too."""
        found = np.zeros(len(pixels), dtype=bool)
        for digit in np.unique(read):
            mine = np.flatnonzero(read == digit)
            if len(self._near[digit]):
                found[mine] = nearest_distance(_flat(pixels[mine]), self._near[digit]) <= self._reach[digit]
        return found

    def _look(self, samples: np.ndarray) -> np.ndarray:
        """int64 [n, 6]: the digit read in each channel, a hash of the pixels, how many channels show theirs clearly, and how many
        look like a real one."""
        logits = [self.classifier.logits(self.classifier.features(samples[..., [c]])) for c in range(3)]
        digits = [each.argmax(1) for each in logits]
        clear = sum((clarity(each) > self._clear[each.argmax(1)]).astype(np.int64) for each in logits)
        hashes = [int.from_bytes(hashlib.sha256(s.tobytes()).digest()[:8], "little", signed=True) for s in samples]
        like = sum(self._looks_real(samples[..., [c]], digits[c]).astype(np.int64) for c in range(3))
        return np.stack([*digits, np.array(hashes, dtype=np.int64), clear, like], axis=1)

    def _judge(self, looked: np.ndarray) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        confusion = self.classifier.confusion
        digits, count = looked[:, :3], len(looked)
        found = measure(mode_of(digits), confusion)
        perfect = floors(confusion, count, self._shares)
        entries = {
            "modes": entry(found.modes, perfect["modes"], count, self.n_real, of=MODES),
            "modes_raw": entry(
                *(found.modes_raw, None, count, self.n_real),
                without="misread images count too; compare `modes` with its floor",
                of=MODES,
            ),
            "reverse_kl": entry(found.reverse_kl, perfect["reverse_kl"], count, self.n_real),
        }
        copies = count - len(np.unique(looked[:, 3]))
        certain, realistic = (float(looked[:, column].mean() / 3) for column in (4, 5))
        verdict = judge_stacked(
            found, digits, confusion, self._shares, copies=copies, certain=certain, realistic=realistic
        )
        return entries, verdict

    def _draw(self, looked: np.ndarray, collapse: dict[str, Any], fake: Any) -> bytes:
        assert self._digits.labels is not None
        found = measure(mode_of(looked[:, :3]), self.classifier.confusion)
        lost, heading = list(collapse["missing"]), "Lost: real images of what the samples lack"
        made = {test["name"]: test for test in collapse["tests"]}
        if not lost and "lost_modes" in made and enough_for(made["lost_modes"]["null_mean"]):
            lost, heading = _lost_modes(found), "Not counted, but too few of them for a verdict: real images"
        copies: list[np.ndarray] = []
        if made["duplicates"]["effect"] >= COPIED / 4:
            _, group, sizes = np.unique(looked[:, 3], return_inverse=True, return_counts=True)
            order = np.argsort(group, kind="stable")
            copies = [some for some in np.split(order, np.cumsum(sizes)[:-1]) if len(some) > 1]
        shown = stacks_to_show(lost, heading, self._digits.labels, copies, len(looked))
        return draw(collapse["verdict"], collapse["reasons"], shown, self._real, fake.read)

    def _real(self, rows: np.ndarray) -> np.ndarray:
        """Stacks uint8 [n, H, W, 3] of the digits in these rows [n, 3]."""
        height, width, _ = self._digits.shape
        digits = self._digits.read(rows.ravel()).reshape(len(rows), 3, height, width)
        return np.ascontiguousarray(digits.transpose(0, 2, 3, 1))

    def _protocol(self, count: int, fake_sha256: str) -> Protocol:
        import torch

        height, width, _ = self._digits.shape
        return Protocol(
            extractor=self.extractor,
            weights_sha256=self.classifier.weights_sha256,
            resize=self.classifier.resize,
            precision=self.classifier.precision,
            shape=(height, width, 3),
            n_fake=count,
            n_real=self.n_real,
            seed=self.seed,
            reference_sha256=self._digits.fingerprint(),
            fake_sha256=fake_sha256,
            classifier_accuracy=self.classifier.accuracy,
            software={"torch": torch.__version__, "numpy": np.__version__, "device": str(self._device)},
        )


def judge_stacked(
    found: StackedMeasures,
    digits: np.ndarray,
    confusion: np.ndarray,
    shares: np.ndarray | None = None,
    *,
    copies: int = 0,
    certain: float = 1.0,
    realistic: float = 1.0,
    repetitions: int = 1999,
) -> dict[str, Any]:
    """The verdict on stacks read as `digits` int64 [n, 3]: {verdict, reasons, tests, missing}.

    In this order of precedence: exact copies among the images; lost modes (`collapsed` from 2 % of them, `suspect` from
    0.5 %), with the digits that a channel never shows; modes of unequal shares, by exp(−KL), the share of the modes that as
    many equal ones would fill. The null of the last two is a perfect sampler of stacks of digits in
    these `shares`, under the same classifier, simulated. `certain`: the share of channels that show their digit as clearly as
    the middle one of real images does; `realistic`: the share that is as near to a real digit of its class as 95% of real
    ones are. Where either is small nothing is said of modes.
    """
    count = len(digits)
    modes, kl = _simulated(*_hashable(confusion, shares), count, repetitions, 1)
    share = copies / count
    repeated = TestResult(
        "duplicates", share, 0.0, share, 1.0 if copies == 0 else 0.0, at_least(share, COPIED, COPIED / 4)
    )
    if repeated.severity != "none":
        repeated.reasons.append(f"{copies:,} of {count:,} images are exact copies of another")

    gone = 1 - found.modes / max(float(modes.mean()), 1.0)
    lost = TestResult(
        name="lost_modes",
        statistic=float(found.modes),
        null_mean=float(modes.mean()),
        effect=float(np.clip(gone, 0, 1)),
        p=permutation_p(-found.modes, -modes),
        severity=at_least(gone, LOST, LOST / 4),
    )
    if lost.severity != "none":
        lost.reasons += [*_lost_digits(digits, confusion), f"{MODES - found.modes:,} of {MODES:,} modes are lost"]
        lost.missing += _lost_modes(found)
    if not enough_for(modes.mean()):
        lost.powerful = False
        lost.weakness = (
            f"with {count:,} images a perfect sampler would count {modes.mean():.0f} of {MODES} modes; draw 26,000"
        )

    filled = float(np.exp(min(0.0, kl.mean() - found.reverse_kl)))
    uneven = TestResult(
        name="evenness",
        statistic=found.reverse_kl,
        null_mean=float(kl.mean()),
        effect=1 - filled,
        p=permutation_p(found.reverse_kl, kl),
        severity=at_least(1 - filled, UNEVEN, UNEVEN / 2.5),
    )
    if uneven.severity != "none":
        uneven.reasons.append(f"modes are so unequal that {filled:.0%} of them, equally likely, would be as diverse")
    calm = f"{found.modes} of {MODES} modes, in shares as equal as chance allows within a fifth; no image is copied"
    what = ""
    if certain < FEWEST_CERTAIN:
        what = f"only {certain:.0%} of the channels show their digit as clearly as the middle one of real images does"
    elif realistic < FEWEST_REALISTIC:
        what = (
            f"only {realistic:.0%} of the channels are as near to a real digit of their class as 95% of real ones are"
        )
    if what:
        return weigh([repeated], calm, [f"quality: {what}, so lost modes cannot be told from poor quality"])
    return weigh([repeated, lost, uneven], calm, [])


def _flat(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1).astype(np.float32)


def enough_for(modes: float) -> bool:
    """Whether lost modes can be told, where a perfect sampler is counted with so many."""
    return modes >= 0.99 * MODES


def _lost_modes(found: StackedMeasures) -> list[dict[str, Any]]:
    """The entries of `missing`."""
    expected = round(found.counts.sum() / MODES)
    return [
        {"mode": f"{mode:03d}", "expected": expected, "seen": int(found.counts[mode])}
        for mode in np.flatnonzero(~found.covered)
    ]


def _lost_digits(digits: np.ndarray, confusion: np.ndarray) -> list[str]:
    """A sentence for each digit that a channel lacks, with the classifier's errors taken out."""
    rows, reasons = confusion_rows(confusion), []
    for channel, name in enumerate(("first", "second", "third")):
        shares = corrected_shares(np.bincount(digits[:, channel], minlength=DIGITS) / len(digits), rows)
        for digit in np.flatnonzero(shares * DIGITS < DROPPED):
            seen = max(0, round(shares[digit] * len(digits)))
            wanted = round(len(digits) / DIGITS)
            reasons.append(
                f"digit {digit} of the {name} channel has {seen:,} of an expected {wanted:,} samples (dropped)"
            )
    return reasons
