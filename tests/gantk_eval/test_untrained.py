"""The verdict on samples whose generator has never drawn varied ones: nothing that was never there can be lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gantk_eval import Evaluator
from gantk_eval.collapse.verdict import Judgement
from gantk_eval.collapse_verdict import without_loss
from gantk_eval.extractors import classifier
from gantk_eval.images import ArrayImages, GeneratedImages

Sets = tuple[ArrayImages, ArrayImages, ArrayImages]
REMARK = (
    "quality: only 3% of samples are as near to real images as 95% of held-out images are, so lost modes cannot be told"
)


@pytest.fixture
def evaluator(monkeypatch: pytest.MonkeyPatch, shared_cache: Path, digit_sets: Sets) -> Evaluator:
    monkeypatch.setattr(classifier, "STEPS", {1: 80, 3: 80})
    monkeypatch.setenv("GANTK_CACHE", str(shared_cache))
    return Evaluator(digit_sets[0], digit_sets[1], metrics=["fd_classifier"])


def drawn(pixels: np.ndarray, varied: bool) -> GeneratedImages:
    return GeneratedImages(
        len(pixels), lambda indices: pixels[indices], pixels.shape[1:], identity="these", varied=varied
    )


@pytest.fixture
def faint(digit_sets: Sets) -> np.ndarray:
    """Faint 8s, all the mean one and a little noise, as a network of a hundred steps draws them: uint8 [n, 32, 32, 1]."""
    reference = digit_sets[0]
    assert reference.labels is not None
    eight = 0.7 * reference.read(np.flatnonzero(reference.labels == 8)).mean(axis=0)
    noise = np.random.default_rng(0).normal(0, 8, (397, 8, 8, 1)).repeat(4, axis=1).repeat(4, axis=2)
    return (eight + noise).round().clip(0, 255).astype(np.uint8)


def test_an_untrained_network_has_lost_nothing(evaluator: Evaluator, faint: np.ndarray) -> None:
    before = evaluator.evaluate(drawn(faint, varied=True))
    assert before.verdict == "collapsed", "what has been varied has lost it"
    assert any("within-mode shrinkage" in reason for reason in before.collapse["reasons"])
    never = evaluator.evaluate(drawn(faint, varied=False))
    assert never.verdict == "inconclusive"
    (reason,) = never.collapse["reasons"]
    assert reason.startswith("quality: only ")
    assert reason.endswith("the samples show nothing yet, and have never been varied, so nothing is lost")
    assert never.collapse["missing"] == []
    # The tests say what they said: it is what follows from them that differs.
    assert never.collapse["tests"] == before.collapse["tests"]
    assert "collapse: inconclusive" in never.table()


@pytest.mark.parametrize("varied", [True, False])
def test_repeated_images_are_collapsed_from_the_start(evaluator: Evaluator, digit_sets: Sets, varied: bool) -> None:
    """Real ones, and such as no real image is like (docs/collapse.md's demonstration)."""
    real = digit_sets[2].read(range(20)).repeat(20, axis=0)
    unlike = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 1), dtype=np.uint8).repeat(20, axis=0)
    for pixels in (real, unlike):
        report = evaluator.evaluate(drawn(pixels, varied))
        assert report.verdict == "collapsed"
        assert "near-duplicates" in report.collapse["reasons"][0]


def test_files_have_no_history(evaluator: Evaluator, faint: np.ndarray) -> None:
    """A set of files is judged by what is in it."""
    assert evaluator.evaluate(ArrayImages(faint)).verdict == "collapsed"


def test_what_samples_like_real_ones_lack_is_lost_from_the_start() -> None:
    judged = Judgement("collapsed", ["class 7 is lost"], ["lost class"])
    assert without_loss(judged) is judged
    suspect = Judgement("suspect", ["samples vary by 40%", REMARK], ["shrinkage"], missing=[{"mode": "7"}], unreal=True)
    found = without_loss(suspect)
    assert (found.verdict, found.kinds, found.missing, found.unreal) == ("inconclusive", [], [], True)
    assert found.reasons == [
        "quality: only 3% of samples are as near to real images as 95% of held-out images are: the samples show nothing "
        "yet, and have never been varied, so nothing is lost"
    ]
    for kept in (
        Judgement("inconclusive", [REMARK], [], unreal=True),
        Judgement("collapsed", ["all alike", REMARK], ["duplicates"], unreal=True),
        Judgement("ok", ["calm"], []),
    ):
        assert without_loss(kept) is kept
