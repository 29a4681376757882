"""Labels: does a sample of label k show class k? Labels can be ignored altogether, or exchanged between classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gantk_eval.collapse.calibration import ALPHA, Reason, Relabellings, TestResult, result_of
from gantk_eval.collapse.classes import confusion_rows, mode_name

__all__ = ["label_agreement"]

SUSPECT = 0.5  # 1 − agreement / held-out images' agreement, of the worst class
NEVER = 2.0  # a wrong label is no lost diversity, so it is never `collapsed`
IGNORED = 0.2
DEPENDENT = 0.5
FEWEST = 10


def label_agreement(
    pool_classes: np.ndarray,
    pool_labels: np.ndarray,
    confusion: np.ndarray,
    relabellings: Relabellings,
    *,
    class_names: Sequence[str] | None = None,
) -> TestResult:
    """The worst class's agreement between the label asked for and the class seen, with the classifier's mistakes taken out.

    `pool_classes`, `pool_labels` [n + m]: predicted classes; labels asked for (generated), then true labels (held-out).
    Statistic: the largest shortfall over classes, in standard deviations of the null. Effect: the largest 1 − ratio to
    held-out images. The label is *ignored* where what is left of the agreement beyond chance, over all classes, is below a
    fifth and the classes shown hardly depend on it; labels are *swapped* where samples of a label mostly show one other class.
    """
    classes, count = len(confusion), relabellings.generated
    rows = confusion_rows(confusion.astype(np.float64))
    try:
        undo = np.linalg.inv(rows)
    except np.linalg.LinAlgError:
        undo = np.linalg.pinv(rows)
    known = (pool_labels >= 0) & (pool_labels < classes)
    labels = np.where(known, pool_labels, 0)
    # With W the inverse confusion, the share of label k that truly is class j is the mean of W[predicted, j].
    one_hot = np.eye(classes, dtype=np.float32)[labels] * known[:, None]
    agreement = np.where(known, undo[pool_classes, labels], 0.0)
    sums = relabellings.sums(np.concatenate([one_hot, one_hot * agreement[:, None]], axis=1))
    size, right = sums[:, :classes], sums[:, classes:]
    real_size = np.bincount(labels[count:], weights=known[count:], minlength=classes)
    real_right = np.bincount(labels[count:], weights=(agreement * known)[count:], minlength=classes)
    judged = np.flatnonzero((size[0] >= FEWEST) & (real_size >= FEWEST))
    if not len(judged):
        zeros = np.zeros(len(relabellings.members))
        return result_of("label_agreement", zeros, effect=0.0, suspect=SUSPECT, collapsed=NEVER)
    shares = right[:, judged] / np.maximum(size[:, judged], 1.0)
    spread = np.maximum(shares[1:].std(axis=0), 1e-12)
    shortfalls = (shares[1:].mean(axis=0) - shares) / spread
    statistics = shortfalls.max(axis=1)
    class_p = (1 + (statistics[1:, None] >= shortfalls[0] - 1e-9).sum(axis=0)) / len(statistics)
    real = np.maximum(real_right / np.maximum(real_size, 1.0), 0.1)[judged]
    losses = np.where(class_p <= ALPHA, 1.0 - shares[0] / real, 0.0)
    shown = np.zeros((classes, classes))
    np.add.at(shown, labels[:count][known[:count]], undo[pool_classes[:count][known[:count]]])
    shown /= np.maximum(size[0], 1.0)[:, None]
    weights = size[0, judged] / size[0, judged].sum()
    chance = float(weights @ (weights @ shown[judged])[judged])
    real_chance = float(np.square(real_size[judged] / real_size[judged].sum()).sum())
    kept = (float(weights @ shares[0]) - chance) / max(float(weights @ real) - real_chance, 1e-6)
    # Of two classes an ignored label is still right in half of the cases: there the loss is that of what is beyond chance.
    effect = max(float(losses.max()), 1.0 - max(kept, 0.0) if kept < IGNORED else 0.0)
    result = result_of("label_agreement", statistics, effect=effect, suspect=SUSPECT, collapsed=NEVER)
    if result.severity == "none":
        return result
    if kept < IGNORED and _dependence(shown[judged], weights) < DEPENDENT:
        text = f"the label is ignored: what samples show agrees with it hardly more than by chance ({max(kept, 0):.0%} of real)"
        result.reasons.append(Reason("label ignored", text))
        return result
    result.reasons += _swaps(judged[losses >= SUSPECT], shown, size[0], class_names)
    return result


def _dependence(shown: np.ndarray, weights: np.ndarray) -> float:
    """How much what is shown [labels, K] depends on the label at all: 0 where it does not, 1 where each label has one class."""
    common = float((weights @ shown).max())
    return (float(weights @ shown.max(axis=1)) - common) / max(1.0 - common, 1e-6)


def _swaps(wrong: np.ndarray, shown: np.ndarray, size: np.ndarray, class_names: Sequence[str] | None) -> list[Reason]:
    """Sentences on the labels whose samples show something else; pairs that are exchanged first."""
    seems = {int(k): int(shown[k].argmax()) for k in wrong}
    reasons, told = [], set()
    for label, other in seems.items():
        if other != label and seems.get(other) == label and label not in told:
            told |= {label, other}
            first, second = mode_name(label, class_names), mode_name(other, class_names)
            text = (
                f"labels {first} and {second} are swapped: {min(1.0, shown[label, other]):.0%} of samples labelled {first} show "
                f"{second}, and {min(1.0, shown[other, label]):.0%} of those labelled {second} show {first}"
            )
            reasons.append(Reason("label swapped", text))
    for label, other in seems.items():
        if label not in told:
            what = f"mostly {mode_name(other, class_names)}" if other != label else "other classes too"
            name = mode_name(label, class_names)
            share = min(1.0, max(0.0, float(shown[label, label])))
            text = f"of {size[label]:,.0f} samples labelled {name} {share:.0%} show it ({what})"
            reasons.append(Reason("label swapped", text))
    return reasons
