"""The text of an evaluation for people: one line, and the table with the verdict first and an answer for each test."""

from __future__ import annotations

from typing import Any

import pytest
from gantk_eval import Report
from gantk_eval.report import score
from gantk_eval.text import columns

CALM = "no class is lost"


def report(verdict: str, reasons: list[str], tests: list[dict[str, Any]] | None = None, **metrics: Any) -> Report:
    entries = {
        "precision_classifier": score(0.7, n_fake=100, n_real=100, floor=0.9, floor_n=100),
        "fd_classifier": score(0.6234, n_fake=100, n_real=100, floor=0.0412, floor_n=100, standard_error=0.01),
        "coverage_classifier": score(0.66, n_fake=100, n_real=100, floor=0.97, floor_n=100),
    }
    collapse = {"verdict": verdict, "reasons": reasons, "tests": tests or [], "missing": []}
    return Report(
        {**entries, **metrics}, collapse, {"fingerprint": "f" * 64, "extractor": "classifier", "precision": "fp32"}
    )


def test_the_line_has_the_scores_that_say_most_and_the_first_reason() -> None:
    found = report("suspect", ["class 1 varies by 29 %", "class 2 varies by 40 %"])
    scores = "fd_classifier ↓ 0.623 (real 0.0412) · coverage_classifier ↑ 0.66 (real 0.97)"
    assert found.line() == f"{scores} · suspect: class 1 varies by 29 % (and 1 more)"
    assert report("ok", [CALM]).line() == f"{scores} · ok"
    first = "precision_classifier ↑ 0.7 (real 0.9) · fd_classifier ↓ 0.623 (real 0.0412) · ok"
    assert report("ok", [CALM]).line("precision_classifier") == first
    assert "\n" not in found.line()
    long = report("collapsed", ["many words " * 20]).line()
    assert long.endswith("many words …")
    assert len(long) < 200


def test_the_line_of_known_modes_counts_them() -> None:
    modes = {
        "modes": score(7.0, n_fake=100, n_real=100, floor=8.0, floor_n=100, of=8),
        "reverse_kl": score(0.1, n_fake=1, n_real=1),
    }
    found = Report(modes, {"verdict": "ok", "reasons": [CALM]}, {})
    assert found.line("reverse_kl") == "reverse_kl ↓ 0.1 · modes ↑ 7 of 8 (real 8) · ok"


def test_the_verdict_comes_first_and_each_test_has_an_answer() -> None:
    def entry(name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "effect": 0.5, "p_adjusted": 0.004, **more}

    tests = [
        entry("duplicates", outcome="ok"),
        entry("class_histogram", outcome="fired"),
        entry("coverage", outcome="not judged", because="too few images"),
        entry("vendi", outcome="not judged", because="too few images"),
        entry("of_an_older_gantk"),
    ]
    lines = report("collapsed", ["class 3 is lost", "class 4 is lost"], tests).table().splitlines()
    assert lines[:3] == ["collapse: collapsed, diversity is lost", "  - class 3 is lost", "  - class 4 is lost"]
    rows = {line.split()[0]: line.split()[1] for line in lines if line.split()[:1] and "0.004" in line}
    assert rows == {
        "duplicates": "ok",
        "class_histogram": "!",
        "coverage": "not",
        "vendi": "not",
        "of_an_older_gantk": "–",
    }
    assert "not judged: coverage, vendi: too few images" in lines
    said = report("inconclusive", ["too few images"], tests).table()
    assert said.count("too few images") == 1, "once, above"
    single = report("ok", [CALM]).table().splitlines()[0]
    assert single == f"collapse: ok, no diversity is lost that the tests below would have seen: {CALM}"


@pytest.mark.parametrize("wide", ["x" * 300, "模式"])
def test_columns_are_neither_cut_nor_wrapped(wide: str) -> None:
    lines = columns([("a", "b"), (wide, "1"), ("[red]y", "22")], right=(1,))
    assert len(lines) == 4
    assert lines[2].split() == [wide, "1"]
    assert lines[3].startswith("[red]y")
