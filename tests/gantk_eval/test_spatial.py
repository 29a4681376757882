"""sFID: Inception's spatial features, their statistics in ADM's form, and that one pass gives both kinds of features."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gantk_eval import ArrayImages, DataError, Evaluator, Report, UserError
from gantk_eval.compare import compare
from gantk_eval.extractors.blocks import block_size
from gantk_eval.extractors.inception import InceptionExtractor
from gantk_eval.extractors.inception_spatial import InceptionSpatialExtractor, features_under
from gantk_eval.metrics import METRICS, find_metric, metric_name
from gantk_eval.reference import Moments, build_reference, read_reference, write_reference
from gantk_eval.reference_scores import evaluate_against_statistics
from gantk_eval.verify import exact_frechet

from gantk.scoring import best_value

NAME = "fd_inception-custom-spatial"


def blotches(count: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture(scope="module")
def network(inception_weights: Path) -> InceptionExtractor:
    return InceptionExtractor(inception_weights, custom=True)


def adms(weights: Path, images: np.ndarray) -> np.ndarray:
    """The layer out of torch-fidelity's own network, laid out as ADM's evaluator does: NHWC, the first 7 channels."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3("theirs", ["2048"], feature_extractor_weights_path=str(weights)).eval()
    maps: list[torch.Tensor] = []
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.no_grad():
        theirs(torch.from_numpy(images).permute(0, 3, 1, 2))
    (found,) = maps
    assert found.shape[1:] == (192, 17, 17)
    return found.numpy().transpose(0, 2, 3, 1)[..., :7].reshape(len(images), -1)


def test_the_features_are_the_layer_of_torch_fidelitys_network(
    network: InceptionExtractor, inception_weights: Path
) -> None:
    images = blotches(6, 0)
    expected, mine = adms(inception_weights, images), InceptionSpatialExtractor(network).features(images)
    assert mine.shape == (6, 2023)
    assert mine.dtype == np.float32
    assert (mine >= 0).all()
    error = np.linalg.norm(mine - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() <= 1e-5
    assert np.linalg.norm(mine[0] - mine[1]) > 1e-2 * np.linalg.norm(mine[0])  # which could differ


def test_one_pass_gives_both(network: InceptionExtractor, monkeypatch: pytest.MonkeyPatch) -> None:
    images, runs = blotches(4, 1), []
    alone, spatial = network.features(images), InceptionSpatialExtractor(network)
    both = {"inception": alone, "inception_spatial": spatial.features(images)}
    run = network._run
    monkeypatch.setattr(network, "_run", lambda *given, **named: runs.append(1) or run(*given, **named))
    for order in (("inception", "inception_spatial"), ("inception_spatial", "inception")):
        extractors: dict[str, Any] = {"inception": network, "inception_spatial": spatial}
        runs.clear()
        found = features_under({name: extractors[name] for name in order}, images)
        assert len(runs) == 1
        assert tuple(found) == order
        for name, expected in both.items():
            assert np.array_equal(found[name], expected), name


def test_sfid_beside_fid(network: InceptionExtractor, inception_weights: Path) -> None:
    """Its value is the distance of the spatial features, another than FID's, with a floor and a name of its own."""
    fake, real = blotches(14, 2), blotches(12, 3)
    evaluator = Evaluator(
        ArrayImages(real),
        ArrayImages(blotches(14, 4)),
        metrics=["fid", "sfid"],
        inception_weights=inception_weights,
        collapse=False,
    )
    entries = evaluator.evaluate(ArrayImages(fake)).metrics
    assert set(entries) == {"fd_inception-custom", NAME}
    spatial = InceptionSpatialExtractor(network)
    exact = exact_frechet(spatial.features(fake), spatial.features(real))
    assert entries[NAME]["value"] == pytest.approx(exact, rel=1e-8)
    assert entries[NAME]["value"] != pytest.approx(entries["fd_inception-custom"]["value"], rel=0.01)
    assert entries[NAME]["floor"] > 0
    assert (metric_name("fd", "inception-v3-compat-spatial"), METRICS["sfid"].extractor) == (
        "sfid",
        "inception_spatial",
    )
    found = find_metric("sfid")
    assert found is not None
    assert not found.higher_is_better


def test_adms_form_is_written_and_read(inception_weights: Path, network: InceptionExtractor, tmp_path: Path) -> None:
    real, fake = ArrayImages(blotches(12, 5)), ArrayImages(blotches(10, 6))
    path = tmp_path / "adm.npz"
    built = build_reference(real, inception_weights=inception_weights, spatial=True)
    write_reference(path, built, real)
    with np.load(path) as file:  # as ADM's evaluator reads it
        assert set(file.files) == {"mu", "sigma", "mu_s", "sigma_s", "arr_0", "count", "gantk"}
        assert np.array_equal(file["arr_0"], real.read(range(12)))
        maps = adms(inception_weights, real.read(range(12))).astype(np.float64)
        assert np.allclose(file["mu_s"], maps.mean(axis=0), rtol=1e-4, atol=1e-5 * np.abs(maps).max())
        assert np.allclose(file["sigma_s"], np.cov(maps, rowvar=False), rtol=1e-4, atol=1e-5 * np.abs(maps).max() ** 2)
        assert file["mu"].shape == (2048,)
    found = read_reference(path)
    options = {"inception_weights": inception_weights, "metrics": ["fid", "sfid"]}
    mine = evaluate_against_statistics(fake, found, **options)
    plain = Evaluator(real, collapse=False, **options).evaluate(fake)
    assert set(mine.metrics) == set(plain.metrics) == {"fd_inception-custom", NAME}
    for name, entry in mine.metrics.items():
        assert entry["value"] == pytest.approx(plain.metrics[name]["value"], rel=1e-7), name
    assert mine.protocol["fingerprint"] == plain.protocol["fingerprint"]


def test_files_of_other_programs_are_told_apart_by_what_sfid_compares(inception_weights: Path) -> None:
    images = ArrayImages(blotches(4, 8))
    built = build_reference(images, inception_weights=inception_weights, spatial=True)
    assert built.spatial is not None
    foreign = replace(built, made={})
    other = replace(foreign, spatial=Moments(built.spatial.mean + 1, built.spatial.covariance))
    for metrics, same in ((["fid"], True), (["fid", "sfid"], False)):
        options = {"inception_weights": inception_weights, "metrics": metrics}
        found = [
            evaluate_against_statistics(images, each, **options).protocol["fingerprint"] for each in (foreign, other)
        ]
        assert (found[0] == found[1]) == same, metrics


def test_runs_are_compared_whatever_else_was_asked_for(inception_weights: Path) -> None:
    real, options = ArrayImages(blotches(6, 11)), {"inception_weights": inception_weights, "collapse": False}
    reports = {}
    for number, metrics in enumerate((["fid"], ["sfid", "fid"], ["fid", "sfid"], ["sfid"])):
        report = Evaluator(real, metrics=metrics, **options).evaluate(ArrayImages(blotches(5, 20 + number)))
        reports[str(number)] = report.to_dict()
    for text in (json.dumps(reports), json.dumps(reports).replace("inception-custom", "inception-v3-compat")):
        found = compare(json.loads(text))
        assert not found.differs
        assert sorted(map(len, found.ranking.values())) == [3, 3]


def test_the_best_checkpoint_by_it_under_weights_of_ones_own() -> None:
    def report(**scores: float) -> Report:
        entries = {name.replace("__", "-"): {"value": value} for name, value in scores.items()}
        return Report(entries, {"verdict": "ok", "reasons": []}, {})

    custom = report(fd_inception__custom__spatial=2.0, fd_inception__custom=3.0)
    assert best_value(custom, None) == ("fd_inception-custom", 3.0)
    assert best_value(custom, "fid") == ("fd_inception-custom", 3.0)
    assert best_value(custom, "sfid") == (NAME, 2.0)
    assert best_value(report(sfid=1.0, fid=4.0), None) == ("fid", 4.0)
    assert best_value(report(sfid=1.0, fid=4.0), "sfid") == ("sfid", 1.0)


def test_grey_images_are_written_as_rgb(inception_weights: Path, tmp_path: Path) -> None:
    grey = ArrayImages(blotches(3, 7)[..., :1])
    write_reference(tmp_path / "a.npz", build_reference(grey, inception_weights=inception_weights, spatial=True), grey)
    with np.load(tmp_path / "a.npz") as file:
        assert np.array_equal(file["arr_0"], np.repeat(grey.read(range(3)), 3, axis=3))


def test_sfid_where_it_cannot_be_had(inception_weights: Path, tmp_path: Path) -> None:
    images = ArrayImages(blotches(4, 8))
    plain = build_reference(images, inception_weights=inception_weights)
    assert plain.spatial is None
    with pytest.raises(DataError, match=r"not both mu_s and sigma_s.*--form adm"):
        evaluate_against_statistics(images, plain, inception_weights=inception_weights, metrics=["sfid"])

    short = replace(plain, spatial=Moments(np.zeros(100), np.eye(100)))
    with pytest.raises(DataError, match=r"mu_s in .* is of 100 features, and sFID's are 2023"):
        evaluate_against_statistics(images, short, inception_weights=inception_weights, metrics=["sfid"])

    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.float().mean(dim=(2, 3))

    torch.jit.script(Mean()).save(str(tmp_path / "mean.pt"))
    with pytest.raises(UserError, match=r"statistics are of Inception, and the extractor is mean"):
        build_reference(images, extractor=tmp_path / "mean.pt", spatial=True)
    with pytest.raises(DataError, match="sfid is of Inception's features, and the extractor is mean"):
        evaluate_against_statistics(images, plain, extractor=tmp_path / "mean.pt", metrics=["sfid"])


def test_the_command(inception_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from gantk.cli import app

    monkeypatch.setenv("GANTK_INCEPTION_WEIGHTS", str(inception_weights))
    for name, seed in (("real", 9), ("fake", 10)):
        np.savez(tmp_path / f"{name}.npz", images=blotches(4, seed))
    out, run = tmp_path / "adm.npz", CliRunner()
    build = ["reference", "build", "--images", str(tmp_path / "real.npz"), "--out", str(out), "--device", "cpu"]
    wrong = run.invoke(app, [*build, "--form", "clean"])
    assert wrong.exception is not None
    assert "`--form clean` is no form of statistics: choose pytorch-fid or adm" in str(wrong.exception)
    made = run.invoke(app, [*build, "--form", "adm"], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    shown = run.invoke(app, ["reference", "show", str(out), "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout)["spatial features, for sFID"] == 2023
    score = ["eval", "--images", str(tmp_path / "fake.npz"), "--reference", str(out), "--metrics", "fid,sfid", "--json"]
    result = run.invoke(app, [*score, "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["metrics"]) == {"fd_inception-custom", NAME}


def test_an_images_features_do_not_depend_on_the_batch(
    network: InceptionExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gantk_eval.extractors.inception.block_size", block_size)
    images = blotches(19, 12)
    whole = network.with_spatial(images)
    for first in (1, 5):
        parts = [network.with_spatial(part) for part in np.split(images, [first])]
        for number, kind in enumerate(("features", "spatial")):
            assert np.array_equal(np.concatenate([part[number] for part in parts]), whole[number]), (first, kind)
