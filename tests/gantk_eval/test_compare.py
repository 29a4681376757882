"""Evaluations side by side: ranked under one protocol, refused by the field's name under two."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gantk_eval import DataError
from gantk_eval.compare import compare, read_report
from gantk_eval.known_modes import GeneratedPoints, MixtureEvaluator
from gantk_eval.mixture import MIXTURES, Mixture
from gantk_eval.protocol import RANKED_BY

PROTOCOL = {
    "extractor": "inception-v3-compat+classifier",
    "weights_sha256": "a+b",
    "resize": "tf1-bilinear-299+none",
    "precision": "fp32+fp32",
    "shape": [32, 32, 3],
    "n_fake": 2000,
    "n_real": 50000,
    "reference_sha256": "c" * 64,
    "is_splits": 10,
    "kid_subsets": 100,
    "kid_subset_size": 1000,
    "neighbour_images": 2000,
    "arithmetic": "gantk-eval-2",
    "fingerprint": "d" * 64,
}


def report(fid: float, score: float = 5.0, error: float | None = 0.1, **protocol: Any) -> dict[str, Any]:
    common = {"standard_error": error, "floor": 3.0, "floor_n": 2000, "n_fake": 2000, "n_real": 50000}
    metrics = {
        "fid": {"value": fid, **common},
        "is": {"value": score, **common},
        "conditional_accuracy": {"value": 0.5 + score / 100, **common},
    }
    verdict = {"verdict": "ok", "reasons": []}
    return {"metrics": metrics, "collapse": verdict, "memorisation": verdict, "protocol": {**PROTOCOL, **protocol}}


def test_fid_is_ranked_where_spatial_features_were_taken_first() -> None:
    both = "inception-v3-compat-spatial+inception-v3-compat"
    of_both = {"extractor": both, "weights_sha256": "z+a", "resize": "x+tf1-bilinear-299", "precision": "bf16+fp32"}
    found = compare({"a": report(20.0), "b": report(12.0, **of_both)})
    assert found.ranking["fid"] == ["b", "a"]


def test_ranks_by_the_metrics_own_direction_and_marks_what_cannot_be_told() -> None:
    found = compare({"a": report(20.0, 4.0), "b": report(12.0, 6.0), "c": report(12.1, 5.0)})
    assert found.refusal == ""
    assert found.ranking == {"fid": ["b", "c", "a"], "is": ["b", "c", "a"], "conditional_accuracy": ["b", "c", "a"]}
    assert found.tied["fid"] == ["c"]
    assert found.tied["is"] == []
    table = found.table()
    assert "12 ± 0.1  #1" in table
    assert "12.1 ± 0.1  #2 ≈" in table
    assert "floor of fid" in table
    assert json.loads(json.dumps(found.to_dict()))["ranking"]["fid"] == ["b", "c", "a"]


def test_equal_scores_share_a_place() -> None:
    lines = compare(
        {"a": report(12.0, error=None), "b": report(12.0, error=None), "c": report(13.0, error=None)}
    ).table()
    row = next(line for line in lines.splitlines() if line.startswith("fid"))
    assert row.split() == ["fid", "12", "#1", "12", "#1", "13", "#3"]


def test_known_modes_are_ranked_and_different_mixtures_are_not() -> None:
    ring, grid = MIXTURES["ring"], MIXTURES["grid"]

    def evaluated(mixture: Mixture, of: int, spread: float = 1.0) -> dict[str, Any]:
        def generate(indices: np.ndarray) -> np.ndarray:
            generator = np.random.default_rng(of)
            noise = spread * mixture.std * generator.standard_normal((len(indices), 2))
            return mixture.means[indices % of] + noise

        points = GeneratedPoints(800, generate, identity=f"{of} {spread}")
        return MixtureEvaluator(mixture, n_real=5000, batch_size=800).evaluate(points).to_dict()

    half, whole, wide = evaluated(ring, 4), evaluated(ring, 8), evaluated(ring, 8, 3.0)
    found = compare({"half": half, "whole": whole})
    assert found.refusal == ""
    assert found.ranking["modes"] == ["whole", "half"]
    assert found.ranking["reverse_kl"] == ["whole", "half"]
    assert "8  #1" in found.table()
    assert compare({"wide": wide, "whole": whole}).ranking["high_quality"] == ["whole", "wide"]
    assert not {"mode_spread", "least_spread"} & set(found.ranking), "best at 1, neither above nor below"
    other = compare({"ring": whole, "grid": evaluated(grid, 25)})
    assert other.ranking == {}
    assert "`reference_sha256`" in other.refusal


def test_without_errors_nothing_is_called_a_tie() -> None:
    assert compare({"a": report(12.0, error=None), "b": report(12.1, error=None)}).tied["fid"] == []


@pytest.mark.parametrize("field", [f for f in RANKED_BY if f not in ("is_splits", "kid_subsets", "kid_subset_size")])
def test_each_field_of_the_protocol_is_refused_by_name(field: str) -> None:
    other = 1 if field != "neighbour_images" else 999
    changed: Any = "z+b" if field in ("weights_sha256", "extractor", "resize", "precision") else other
    if field == "extractor":
        changed = "inception-custom+classifier"
    found = compare({"a": report(20.0), "b": report(12.0, **{field: changed})})
    if field in ("neighbour_images", "ms_ssim_scales"):  # FID does not depend on them
        assert not found.refusal
        return
    assert "fid" not in found.ranking
    assert set(found.differs["fid"]) == {field}
    assert f"`{field}`" in found.refusal
    assert "#1" not in found.table().splitlines()[2]


def test_a_field_counts_only_where_the_metric_depends_on_it() -> None:
    found = compare({"a": report(20.0), "b": report(12.0, is_splits=5, kid_subset_size=50)})
    assert found.ranking["fid"] == ["b", "a"]
    assert set(found.differs) == {"is"}
    assert found.refusal.endswith("they differ in\n  `is_splits`: 10 in a, 5 in b (is)")
    # Another classifier does not touch a FID.
    found = compare({"a": report(20.0), "b": report(12.0, weights_sha256="a+x")})
    assert set(found.differs) == {"conditional_accuracy"}
    # Extra extractors on one side do not either.
    alone = {
        "extractor": "inception-v3-compat",
        "weights_sha256": "a",
        "resize": "tf1-bilinear-299",
        "precision": "fp32",
    }
    assert compare({"a": report(20.0), "b": report(12.0, **alone)}).ranking["fid"] == ["b", "a"]


def test_what_differs_is_a_short_list() -> None:
    """A line for each field, with every value once, however many evaluations and metrics there are."""
    many = {f"run{n}": report(20.0, n_fake=100 if n == 7 else 2000, n_real=n % 2) for n in range(8)}
    lines = compare(many).refusal.splitlines()
    assert lines == [
        "scores of different protocols are not ranked; they differ in",
        "  `n_fake`: 2000 in run0, run1, run2, run3 and 3 more, 100 in run7 (fid, is, conditional_accuracy)",
        "  `n_real`: 0 in run0, run2, run4, run6, 1 in run1, run3, run5, run7 (fid, is, conditional_accuracy)",
    ]


def test_metrics_that_one_side_lacks_or_nobody_knows_are_shown() -> None:
    first, second = report(20.0), report(12.0)
    del second["metrics"]["is"]
    for side in (first, second):
        side["metrics"]["of_the_future"] = copy.deepcopy(side["metrics"]["fid"])
    found = compare({"a": first, "b": second})
    assert set(found.ranking) == {"fid", "conditional_accuracy"}
    assert "of_the_future" in found.table()
    assert "–" in found.table()


def test_what_is_no_evaluation_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("{", "[]", '{"metrics": {}}', "3"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"x\.json is no evaluation"):
            read_report(path)
    path.write_text(json.dumps(report(1.0)))
    assert read_report(path)["metrics"]["fid"]["value"] == 1.0
