"""The evaluator from pictures to report."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gantk_eval import ArrayImages, DataError, Evaluator, GeneratedImages, Report, UserError, evaluate
from gantk_eval.extractors import classifier
from gantk_eval.extractors.classifier import ClassifierExtractor

Sets = tuple[ArrayImages, ArrayImages, ArrayImages]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, shared_cache: Path) -> None:
    """A shorter recipe, whose classifier is trained once for all tests."""
    monkeypatch.setattr(classifier, "STEPS", {1: 80, 3: 80})
    monkeypatch.setenv("GANTK_CACHE", str(shared_cache))


@pytest.fixture
def evaluator(quick: None, digit_sets: Sets) -> Evaluator:
    reference, heldout, _ = digit_sets
    return Evaluator(reference, heldout)


def test_report_has_the_documented_form(
    evaluator: Evaluator, digit_sets: Sets, capsys: pytest.CaptureFixture[str]
) -> None:
    report = evaluator.evaluate(digit_sets[2])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("warning: no Inception weights") == 1
    result = json.loads(report.to_json())
    assert list(result) == ["metrics", "collapse", "memorisation", "protocol"]
    kinds = ("fd", "is", "kd", "precision", "recall", "density", "coverage", "vendi")
    names = [*(f"{kind}_classifier" for kind in kinds), "fd_classifier_per_class", "conditional_accuracy"]
    assert list(result["metrics"]) == names
    fields = {"value", "standard_error", "extrapolated", "floor", "floor_n", "n_fake", "n_real", "std", "warning"}
    for name, entry in result["metrics"].items():
        assert fields <= set(entry)
        assert entry["n_fake"] == 397
        assert entry["n_real"] == (397 if entry.get("neighbours") else 1000)
        assert entry["standard_error"] > 0, name
        assert set(entry["none_because"]) == {"extrapolated"} & set(entry["none_because"]), name
    assert len(result["metrics"]["fd_classifier_per_class"]["classes"]) == 10
    assert "would do" in result["metrics"]["fd_classifier"]["warning"]
    assert "512 images" in result["metrics"]["fd_classifier"]["none_because"]["extrapolated"]
    assert result["metrics"]["fd_classifier"]["floor_n"] == 397
    assert result["metrics"]["kd_classifier"]["subset_size"] == 397
    assert set(result["collapse"]) == {"verdict", "reasons", "tests", "missing"}
    protocol = result["protocol"]
    assert protocol["extractor"] == "classifier"
    assert protocol["reference_sha256"] == digit_sets[0].fingerprint()
    assert len(protocol["fingerprint"]) == 64
    assert protocol["classifier_accuracy"] >= 0.97
    table = report.table()
    for words in ("fd_classifier", "real-vs-real floor", "n=397", "collapse: inconclusive"):
        assert words in table
    assert Report.from_dict(result).to_dict() == report.to_dict()
    assert report.picture is not None
    assert report.picture.startswith(b"\x89PNG")


def test_real_images_are_near_the_floor_and_too_few_to_be_called_ok(evaluator: Evaluator, digit_sets: Sets) -> None:
    report = evaluator.evaluate(digit_sets[2])
    assert report.verdict == "inconclusive", report.collapse
    assert "with 397 generated and 400 held-out images class" in report.collapse["reasons"][0]
    score = report.metrics["fd_classifier"]
    assert 0 < score["value"] < 5 * score["floor"]
    assert report.metrics["conditional_accuracy"]["value"] > 0.95


def test_a_removed_class_is_collapse_and_is_named(evaluator: Evaluator, digit_sets: Sets) -> None:
    pixels, labels = digit_sets[2].read(range(397)), digit_sets[2].labels
    assert labels is not None
    report = evaluator.evaluate(ArrayImages(pixels[labels != 3]))
    assert report.verdict == "collapsed", report.collapse
    assert [m["mode"] for m in report.collapse["missing"]] == ["3"]
    assert "missing or starved  expected  seen" in report.table()
    assert "class_histogram" in report.table()


def test_repeated_images_are_collapse(evaluator: Evaluator, digit_sets: Sets) -> None:
    report = evaluator.evaluate(ArrayImages(np.repeat(digit_sets[2].read(range(100)), 4, axis=0)))
    assert report.verdict == "collapsed"
    assert any("near-duplicates of 100 images" in reason for reason in report.collapse["reasons"])


def test_noise_is_poor_but_not_collapsed(evaluator: Evaluator) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 32, 32), dtype=np.uint8)
    report = evaluator.evaluate(ArrayImages(noise))
    assert report.verdict == "inconclusive"
    assert "quality" in report.collapse["reasons"][0]
    assert report.metrics["fd_classifier"]["value"] > 10 * report.metrics["fd_classifier"]["floor"]


def test_scores_do_not_depend_on_batch_size_or_order_of_calls(
    quick: None, evaluator: Evaluator, digit_sets: Sets
) -> None:
    reference, heldout, others = digit_sets
    first = evaluator.evaluate(others)
    again = Evaluator(reference, heldout, batch_size=37).evaluate(others)
    for name, entry in first.metrics.items():
        assert again.metrics[name]["value"] == pytest.approx(entry["value"], rel=1e-9), name
    assert again.collapse == first.collapse
    assert evaluator.evaluate(others).to_dict() == first.to_dict()
    assert again.protocol["fingerprint"] == first.protocol["fingerprint"]


def test_generated_images_are_asked_for_by_global_index(evaluator: Evaluator, digit_sets: Sets) -> None:
    others = digit_sets[2]
    asked: list[int] = []

    def make(indices: np.ndarray) -> np.ndarray:
        asked.extend(indices.tolist())
        return others.read(indices)

    report = evaluator.evaluate(GeneratedImages(397, make, others.shape, identity="x"))
    assert asked == list(range(397)), "each sample once"
    plain = evaluator.evaluate(ArrayImages(others.read(range(397))))
    assert report.metrics == plain.metrics


def test_each_extractor_sees_each_image_once(
    evaluator: Evaluator, digit_sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gantk_eval.extractors.pixel_pca import PixelPCAExtractor

    evaluator.prepare()
    seen: list[tuple[str, int]] = []
    for kind in (PixelPCAExtractor, classifier.ClassifierExtractor):
        features = kind.features

        def counted(self: Any, images: np.ndarray, features: Any = features) -> np.ndarray:
            seen.append((self.name, len(images)))
            return features(self, images)

        monkeypatch.setattr(kind, "features", counted)
    report = evaluator.evaluate(digit_sets[2])
    for name in ("classifier", "pixel_pca"):
        assert sum(count for extractor, count in seen if extractor == name) == 397
    assert report.memorisation["verdict"] == "ok"


def test_too_few_images_for_an_error_say_so(evaluator: Evaluator, digit_sets: Sets) -> None:
    report = evaluator.evaluate(ArrayImages(digit_sets[2].read(range(15))))
    score = report.metrics["is_classifier"]
    assert score["standard_error"] is None
    assert "2 images in each split" in score["none_because"]["standard_error"]
    assert "500 would do" in score["warning"]
    assert report.memorisation["verdict"] == "inconclusive"


def test_without_heldout_there_is_no_floor_and_no_verdict(quick: None, digit_sets: Sets) -> None:
    report = evaluate(digit_sets[2], digit_sets[0])
    assert all(entry["floor"] is None and entry["floor_n"] is None for entry in report.metrics.values())
    assert report.verdict == "inconclusive"
    assert "held-out" in report.collapse["reasons"][0]


def test_fewer_heldout_than_generated_images_say_their_n(quick: None, digit_sets: Sets) -> None:
    reference, heldout, others = digit_sets
    few = ArrayImages(heldout.read(range(150)))
    report = evaluate(others, reference, few)
    labelled = ("conditional_accuracy", "fd_classifier_per_class")
    assert {m["floor_n"] for n, m in report.metrics.items() if n not in labelled} == {150}


def test_without_labels_pixels_stand_in(digit_sets: Sets, capsys: pytest.CaptureFixture[str]) -> None:
    reference, heldout, others = (ArrayImages(s.read(range(len(s)))) for s in digit_sets)
    report = evaluate(others, reference, heldout)
    kinds = ("fd", "kd", "precision", "recall", "density", "coverage", "vendi")
    assert list(report.metrics) == [f"{kind}_pixel_pca" for kind in kinds]
    assert report.protocol["extractor"] == "pixel_pca"
    assert report.metrics["fd_pixel_pca"]["extrapolated"] is not None
    assert "no labels" in report.collapse["reasons"][0]
    assert capsys.readouterr().err.count("warning") == 1


def test_a_damaged_feature_cache_is_made_again(tmp_path: Path, digit_sets: Sets) -> None:
    reference, _, others = digit_sets
    options = {"metrics": ["fd_pixel_pca"], "collapse": False}
    first = evaluate(others, reference, **options)
    (file,) = (tmp_path / "cache" / "features").iterdir()
    good = file.read_bytes()
    for bad in (good[:1000], b"", good[:2000] + bytes([good[2000] ^ 255]) + good[2001:]):
        file.write_bytes(bad)
        assert evaluate(others, reference, **options).to_dict() == first.to_dict()
        assert file.read_bytes() == good
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_cache_is_used_and_keyed_by_content(
    tmp_path: Path, digit_sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gantk_eval.extractors.pixel_pca import PixelPCAExtractor

    reference, _, others = digit_sets
    options = {"metrics": ["fd_pixel_pca"], "collapse": False}
    evaluate(others, reference, **options)
    seen: list[int] = []
    features = PixelPCAExtractor.features

    def counted(self: PixelPCAExtractor, images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return features(self, images)

    monkeypatch.setattr(PixelPCAExtractor, "features", counted)
    evaluate(others, reference, **options)
    assert sum(seen) == len(others)
    pixels = reference.read(range(1000)).copy()
    pixels[0, 0, 0] ^= 255
    evaluate(others, ArrayImages(pixels), **options)
    assert sum(seen) == 2 * len(others) + 1000


def test_fingerprints_tell_protocols_apart(digit_sets: Sets) -> None:
    reference, _, others = digit_sets
    options = {"metrics": ["fd_pixel_pca", "kd_pixel_pca"], "collapse": False}
    base = evaluate(others, reference, kid_subset_size=50, **options).protocol["fingerprint"]
    assert evaluate(others, reference, kid_subset_size=50, **options).protocol["fingerprint"] == base
    assert evaluate(others, reference, kid_subset_size=60, **options).protocol["fingerprint"] != base
    fewer = ArrayImages(others.read(range(300)))
    assert evaluate(fewer, reference, kid_subset_size=50, **options).protocol["fingerprint"] != base
    other = ArrayImages(others.read(range(396, -1, -1)))  # other images, the same protocol
    assert evaluate(other, reference, kid_subset_size=50, **options).protocol["fingerprint"] == base


def test_mistakes_are_told_before_anything_is_done(digit_sets: Sets) -> None:
    reference, heldout, _ = digit_sets
    with pytest.raises(UserError, match="no metric `fidd`; did you mean `fid`"):
        Evaluator(reference, metrics=["fidd"])
    with pytest.raises(UserError, match="no metric `quality`; choose from fid, is, kid"):
        Evaluator(reference, metrics=["quality"])
    with pytest.raises(UserError, match="choose from"):
        Evaluator(reference, metrics=[])
    with pytest.raises(DataError, match="28×28 with 1 channels"):
        Evaluator(reference, ArrayImages(np.zeros((4, 28, 28), np.uint8)))
    with pytest.raises(DataError, match="32×32 with 3 channels"):
        Evaluator(reference, heldout).evaluate(ArrayImages(np.zeros((4, 32, 32, 3), np.uint8)))
    with pytest.raises(DataError, match="at least 2"):
        Evaluator(ArrayImages(np.zeros((1, 8, 8), np.uint8)))
    unlabelled = ArrayImages(reference.read(range(100)))
    with pytest.raises(DataError, match="no labels"):
        evaluate(heldout, unlabelled, metrics=["fd_classifier"])


@pytest.mark.parametrize(
    ("count", "without"), [(2, "is kd precision recall density coverage"), (4, "is kd"), (19, "kd")]
)
def test_a_few_images_get_the_metrics_that_they_allow(
    quick: None, evaluator: Evaluator, digit_sets: Sets, count: int, without: str
) -> None:
    """No number where it would mean nothing: of two images the kernel distance can be tens of thousands below zero."""
    report = evaluator.evaluate(ArrayImages(digit_sets[2].read(range(count))))
    kinds = ("fd", "is", "kd", "precision", "recall", "density", "coverage", "vendi")
    assert set(report.metrics) == {f"{kind}_classifier" for kind in kinds}
    missing = {name for name, entry in report.metrics.items() if entry["value"] is None}
    assert missing == {f"{kind}_classifier" for kind in without.split()}
    reason = f"{count} images are too few; it takes 20"
    assert report.metrics["kd_classifier"]["none_because"]["value"] == reason
    assert reason in report.table()
    assert report.protocol["kid_subset_size"] is None
    assert report.verdict == "inconclusive"


def test_the_kernel_distance_is_refused_where_its_subsets_are_too_small(quick: None, digit_sets: Sets) -> None:
    reference, _, fake = digit_sets
    options = {"metrics": ["kd_pixel_pca"], "collapse": False}
    with pytest.raises(DataError, match=r"subsets of 2 images, .* a subset size from 20 to"):
        evaluate(fake, reference, kid_subset_size=2, **options)
    few = ArrayImages(fake.read(range(5)))
    with pytest.raises(DataError, match=r"there are 5 generated .* give at least 20 of each"):
        evaluate(few, reference, **options)


def test_labels_are_matched_by_class_name() -> None:
    from gantk_eval.labels import align_labels

    pixels = np.zeros((3, 4, 4), np.uint8)
    reference = ArrayImages(pixels, [0, 1, 2], class_names=["cat", "dog", "owl"])
    named = ArrayImages(pixels, [0, 1, 1], class_names=["owl", "cat"])
    for images, expected in ((named, [2, 0, 0]), (ArrayImages(pixels, [2, 1, 0]), [2, 1, 0])):
        aligned = align_labels(images, reference)
        assert aligned is not None
        assert aligned.tolist() == expected
    assert align_labels(ArrayImages(pixels), reference) is None


ANIMALS = (("cat", "dog", "owl"), [0, 1, 2])
NUMBERED = (None, [0, 1, 2])


@pytest.mark.parametrize("role", ["generated", "heldout"])
@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ((("dog", "emu", "gnu"), [0, 1, 2]), ANIMALS, r"has classes that .* lacks \(emu, gnu\); give both"),
        ((("dog", "emu"), [0, 0, 0]), ANIMALS, [1, 1, 1]),  # a name that no image bears
        ((None, [1, 3, 4]), ANIMALS, r"has labels that .* lacks \(3, 4\), whose classes are 0 to 2; give both"),
        ((None, [1, 3, 4]), NUMBERED, r"has labels that .* lacks \(3, 4\), whose classes are 0 to 2; give both"),
        ((("0", "2"), [0, 1, 1]), NUMBERED, [0, 2, 2]),  # folders, of which number 1 is not there
        ((("2", "7"), [0, 1, 1]), NUMBERED, r"has classes that .* lacks \(7\); give both"),
        ((("cat",), [0, 1, 1]), ANIMALS, "has label 1 but 1 class names"),
        ((("car", "bus"), [0, 1, 1]), ANIMALS, r"no class in common \(car, bus; cat, dog, owl\), so the labels"),
    ],
)
def test_classes_that_the_reference_lacks(
    role: str, mine: Any, theirs: Any, expected: str | list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    from gantk_eval.labels import align_labels

    pixels = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
    (names, labels), (their_names, their_labels) = mine, theirs
    images = ArrayImages(pixels, labels * 20, class_names=names, name="the others")
    reference = ArrayImages(pixels, their_labels * 20, class_names=their_names, name="the reference")
    generated, heldout = (images, None) if role == "generated" else (ArrayImages(pixels), images)

    def run() -> Report:
        return Evaluator(reference, heldout, metrics=["fd_pixel_pca"], collapse=False).evaluate(generated)

    if isinstance(expected, list):
        aligned = align_labels(images, reference)
        assert aligned is not None
        assert aligned.tolist() == expected * 20
        run()
        assert capsys.readouterr().err == ""
    elif "no class in common" not in expected:
        with pytest.raises(DataError, match=f"the others {expected}"):
            run()
    else:
        assert align_labels(images, reference) is None
        run()
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(expected, line)
        needs = Evaluator(reference, heldout, metrics=["fd_pixel_pca_per_class"], collapse=False)
        if role == "generated":
            with pytest.raises(DataError, match="needs labels for the generated"):
                needs.evaluate(generated)


def test_importing_the_package_is_light_and_never_reaches_gantk() -> None:
    code = (
        "import sys, gantk_eval; assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "import pkgutil, importlib\n"
        "for m in pkgutil.walk_packages(gantk_eval.__path__, 'gantk_eval.'):\n"
        "    importlib.import_module(m.name)\n"
        "assert not [m for m in sys.modules if m == 'gantk' or m.startswith('gantk.')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_no_module_names_gantk(project_root: Path) -> None:
    import ast

    for path in (project_root / "evaluation").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] == "gantk"], path


@pytest.mark.slow
@pytest.mark.realdata
def test_verdict_on_mnist(real_data: Path) -> None:
    from gantk_eval import open_images

    train, test = (open_images(real_data / f"mnist_{split}.parquet") for split in ("train", "test"))
    assert train.labels is not None
    assert test.labels is not None
    reference = ArrayImages(train.read(range(12_000)), train.labels[:12_000])
    heldout = ArrayImages(test.read(range(5000)), test.labels[:5000])
    evaluator = Evaluator(reference, heldout)
    pixels, labels = test.read(range(5000, 8000)), test.labels[5000:8000]

    def verdict(images: np.ndarray) -> str:
        return evaluator.evaluate(ArrayImages(images.clip(0, 255).astype(np.uint8))).verdict

    real = evaluator.evaluate(ArrayImages(pixels[:2000]))
    assert real.verdict == "ok", real.collapse
    assert real.metrics["fd_classifier"]["value"] < 3 * real.metrics["fd_classifier"]["floor"]
    removed = evaluator.evaluate(ArrayImages(pixels[labels != 7][:2000]))
    assert removed.verdict == "collapsed"
    assert [m["mode"] for m in removed.collapse["missing"]] == ["7"]
    assert verdict(np.repeat(pixels[:500], 4, axis=0)) == "collapsed"
    whole = pixels[:2000].astype(np.float64)
    blurred = (whole + np.roll(whole, 1, axis=1) + np.roll(whole, 1, axis=2)) / 3
    assert verdict(blurred) in ("ok", "inconclusive")
    assert verdict(whole + np.random.default_rng(0).normal(0, 10, whole.shape)) in ("ok", "inconclusive")
    means = np.stack([whole[labels[:2000] == k].mean(axis=0) for k in range(10)])
    blended = evaluator.evaluate(ArrayImages(((whole + means[labels[:2000]]) / 2).astype(np.uint8)))
    assert blended.verdict in ("suspect", "collapsed")
    assert "within-mode shrinkage" in blended.collapse["reasons"][0]
    exchange = np.arange(10)
    exchange[[4, 9]] = 9, 4
    swapped = evaluator.evaluate(ArrayImages(pixels[:2000], exchange[labels[:2000]]))
    assert swapped.verdict == "suspect"
    assert "labels 4 and 9 are swapped" in swapped.collapse["reasons"][0]
    copies = evaluator.evaluate(ArrayImages(reference.read(range(2000))))
    assert copies.verdict == "ok", copies.collapse
    assert copies.memorisation["verdict"] == "memorised"


def test_held_out_images_that_are_the_reference_are_refused(quick: None, digit_sets: Sets) -> None:
    reference, _, _ = digit_sets
    with pytest.raises(DataError, match=r"the held-out images are .*, the reference itself: give other real images"):
        Evaluator(reference, reference)


@pytest.mark.parametrize(("shared", "own", "told"), [(0.5, 0, True), (0.02, 0, False), (0.3, 300, False)])
def test_held_out_images_that_the_reference_holds_calibrate_nothing(
    quick: None, shared: float, own: int, told: bool
) -> None:
    """Where the data hold copies of their own, so may the held-out images."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (900, 8, 8, 1), dtype=np.uint8)
    real, other, fake = pixels[:500], pixels[500:700], pixels[700:]
    real[500 - own :] = real[:own]
    other[: int(200 * shared)] = real[: int(200 * shared)]
    report = Evaluator(ArrayImages(real), ArrayImages(other), metrics=["fd_pixel_pca"]).evaluate(ArrayImages(fake))
    sentence = f"{shared:.0%} of the held-out images are in the reference too"
    reasons = [*report.collapse["reasons"], *report.memorisation["reasons"]]
    assert [sentence in reason for reason in reasons].count(True) == (2 if told else 0), reasons
    if told:
        assert (report.verdict, report.memorisation["verdict"]) == ("inconclusive", "inconclusive")


def test_a_classifier_is_trained_only_where_something_needs_it(
    quick: None, digit_sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict on classes does, in whatever features the scores are; without one, nothing is trained for pixels."""
    reference, heldout, fake = digit_sets
    made: list[str] = []
    real = ClassifierExtractor.__init__

    def counted(self: ClassifierExtractor, *args: Any, **options: Any) -> None:
        made.append(options["used_by"])
        real(self, *args, **options)

    monkeypatch.setattr(ClassifierExtractor, "__init__", counted)
    options = {"extractor": "pixel_pca", "metrics": ["fd_pixel_pca"], "accuracy_floor": 0.0}
    evaluate(fake, reference, heldout, collapse=False, **options)
    evaluate(fake, reference, ArrayImages(heldout.read(range(10))), **options)
    assert not made, "no verdict is asked for, or possible with ten held-out images"
    report = evaluate(fake, reference, heldout, **options)
    assert ["--no-verdict" in why for why in made] == [True]
    assert "class_histogram" in {test["name"] for test in report.collapse["tests"]}
