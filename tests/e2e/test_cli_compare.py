"""`gantk compare`: runs by name, folder and file; the exit code, and what is on stdout and stderr."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from gantk_eval import ArrayImages, evaluate

import gantk
from gantk.cli import main
from gantk.errors import ConfigError
from gantk.evaluation_commands import short_names
from gantk.evaluations import evaluations_of, find_evaluation, manifest_sha256


@pytest.fixture(scope="module")
def reports() -> dict[str, str]:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 8, 8), dtype=np.uint8)
    reference = ArrayImages(pixels[:100])

    def score(images: np.ndarray) -> str:
        return evaluate(ArrayImages(images), reference, metrics=["fd_pixel_pca"], collapse=False).to_json()

    return {"good": score(pixels[100:200]), "bad": score(pixels[100:200] // 2), "few": score(pixels[100:150])}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reports: dict[str, str]) -> Path:
    folder = tmp_path / "runs"
    monkeypatch.setenv("GANTK_RUNS", str(folder))
    for number, (name, text) in enumerate(reports.items()):
        (folder / name / "eval").mkdir(parents=True)
        (folder / name / "config.yaml").write_text("name: x\n")
        for age, content in (("old", "{}"), ("new", text)):
            file = folder / name / "eval" / f"step-00000001-{age}.json"
            file.write_text(content)
            os.utime(file, (1_000_000 + number, 1_000_000 + (age == "new")))
    return folder


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["compare", *map(str, arguments)])
    out, err = capfd.readouterr()
    return int(stop.value.code or 0), out, err


def test_runs_of_one_protocol_are_ranked(runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "by its name and time" in run(capfd, "good", "bad")[2], "these files do not say what they are of"
    for second in ("bad", runs / "bad", runs / "bad" / "eval" / "step-00000001-new.json", "bad@step-00000001"):
        code, out, err = run(capfd, "good", second)
        assert code == 0, err
        assert "#1" in out
        assert "step-00000001-new.json" in err
    code, out, _ = run(capfd, "bad", "good", "--json")
    assert json.loads(out)["ranking"]["fd_pixel_pca"] == ["good", "bad"]


def test_the_same_images_kept_in_another_way_are_ranked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GANTK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("GANTK_CACHE", str(tmp_path / "cache"))
    pixels = np.random.default_rng(0).integers(0, 256, (120, 8, 8), dtype=np.uint8)
    for name, images in (("a", pixels), ("b", pixels[::-1])):
        np.savez(tmp_path / f"{name}.npz", images=images)
    tiny = Path(__file__).resolve().parents[2] / "configs" / "tiny.yaml"
    short = (
        "train.kimg=0.064",
        "evaluate={every_kimg: 0.064, samples: 50, metrics: [fd_pixel_pca]}",
        "train.log_every_kimg=1",
    )
    for name, data, storage in (("kept", "a", "memory"), ("streamed", "a", "stream"), ("other", "b", "stream")):
        source = f"data={{source: npz, path: {tmp_path}/{data}.npz, resolution: 8, storage: {storage}}}"
        gantk.train(tiny, source, *short, f"name={name}")
    code, out, err = run(capfd, "kept", "streamed", "--json")
    assert code == 0, err
    assert set(json.loads(out)["ranking"]["fd_pixel_pca"]) == {"kept", "streamed"}
    code, _, err = run(capfd, "kept", "other")
    assert code == 2
    assert "reference_sha256" in err


def test_other_protocols_are_shown_and_refused(runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "good", "few")
    assert code == 2
    assert "fd_pixel_pca" in out
    assert "#1" not in out
    assert (
        "gantk: scores of different protocols are not ranked; they differ in\n  `n_fake`: 100 in good, 50 in few" in err
    )
    code, out, _ = run(capfd, "good", "few", "--json")
    assert code == 2
    assert list(json.loads(out)["differs"]["fd_pixel_pca"]) == ["n_fake"]


def scored(runs: Path, name: str, file: str, *, step: int, date: str, text: str, checkpoint: str | None = None) -> Path:
    """An evaluation of `runs/name` that says what it is of."""
    folder = runs / name / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    (runs / name / "config.yaml").write_text("name: x\ntrain:\n  batch_size: 50\n")
    said = {"name": name, "step": step, "kimg": step / 20, "checkpoint_sha256": checkpoint, "date": date, "gantk": "0"}
    (folder / file).write_text(json.dumps({**json.loads(text), "run": said}))
    return folder / file


def test_the_runs_end_is_compared_whatever_the_files_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], reports: dict[str, str]
) -> None:
    """A copy of a run has files of one age, or of any: what they say of themselves decides."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("GANTK_RUNS", str(folder))
    for name, last in (("a", "good"), ("b", "bad")):
        end = scored(folder, name, "0000000100.json", step=2, date="2026-01-02T00:00:00+00:00", text=reports[last])
        early = scored(
            folder, name, "step-00000001-50.json", step=1, date="2026-01-03T00:00:00+00:00", text=reports["few"]
        )
        os.utime(early, (2_000_000, 2_000_000))
        os.utime(end, (1_000_000, 1_000_000))
    code, out, err = run(capfd, "a", "b")
    assert code == 0, err
    assert err.count("0000000100.json (0.1 kimg, scored 2026-01-02 00:00:00 UTC)") == 2
    assert [line.split() for line in out.splitlines() if line.startswith("kimg")] == [["kimg", "0.1", "0.1"]]
    # Of one step the newest by its own date.
    scored(folder, "a", "step-00000002-50.json", step=2, date="2026-01-04T00:00:00+00:00", text=reports["few"])
    os.utime(folder / "a" / "eval" / "step-00000002-50.json", (1, 1))
    assert "step-00000002-50.json" in run(capfd, "a", "b")[2]
    assert "step-00000001-50.json" in run(capfd, "a@step-00000001", "b")[2]


def test_old_evaluations_are_taken_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reports: dict[str, str]
) -> None:
    """They are ordered by the images or the step in their names, beside those that know their own."""
    monkeypatch.setenv("GANTK_RUNS", str(tmp_path / "runs"))
    new = scored(
        tmp_path / "runs", "a", "0000000100.json", step=2, date="2026-01-02T00:00:00+00:00", text=reports["good"]
    )
    for name, age in (("0000000150.json", 1), ("step-00000001-50.json", 4_000_000_000)):
        (new.parent / name).write_text(reports["bad"])
        os.utime(new.parent / name, (age, age))
    steps = [(e.path.name, e.step) for e in evaluations_of(tmp_path / "runs" / "a")]
    assert steps == [("step-00000001-50.json", 1), ("0000000100.json", 2), ("0000000150.json", 3)]


def test_an_evaluation_of_another_checkpoint_of_that_name_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reports: dict[str, str]
) -> None:
    monkeypatch.setenv("GANTK_RUNS", str(tmp_path / "runs"))
    of = {"step": 2, "date": "2026-01-02T00:00:00+00:00", "text": reports["good"]}
    path = scored(tmp_path / "runs", "a", "step-00000002-50.json", checkpoint="0" * 64, **of)
    checkpoint = tmp_path / "runs" / "a" / "checkpoints" / "step-00000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match="a@step-00000002 has no evaluation yet"):
        find_evaluation("a@step-00000002")
    scored(tmp_path / "runs", "a", path.name, checkpoint=manifest_sha256(checkpoint), **of)
    assert find_evaluation("a@step-00000002").path == path


def test_short_names() -> None:
    """The shortest part that tells each from the others."""
    for specs, names in (
        (("good", "bad@best"), ["good", "bad@best"]),
        (("/long/way/runs/a/eval/0000000100.json", "/long/way/runs/b/eval/0000000100.json"), ["a", "b"]),
        (("/long/way/runs/a", "b"), ["a", "b"]),
        (("/x/a/eval/1.json", "/x/a/eval/2.json", "c"), ["1", "2", "c"]),
        (("a/1/x", "a/2/x", "b/1/x"), ["a/1/x", "a/2/x", "b/1/x"]),
    ):
        assert list(short_names(specs).values()) == names


def test_one_evaluation_twice_is_refused(runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capfd, "good", runs / "good")
    assert code == 2
    assert "one and the same evaluation" in err


def test_mistakes_get_their_sentence(runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (runs / "unscored").mkdir()
    (runs / "unscored" / "config.yaml").write_text("name: x\n")
    for arguments, code, words in (
        (("good",), 2, "two or more"),
        (("good", "good"), 2, "twice"),
        (("good", "nothing"), 2, "there is no run or evaluation `nothing`; the runs there are: bad, few, good"),
        (("good", "unscored"), 2, "gantk eval --ckpt unscored"),
        (("good", runs / "good" / "config.yaml"), 3, "is no evaluation"),
    ):
        found, out, err = run(capfd, *arguments)
        assert (found, out) == (code, "")
        assert words in err
        assert "Traceback" not in err


def test_a_metric_that_there_is_not_is_refused_before_anything_is_read(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (("--ckpt", "nowhere"), ("--images", "nowhere", "--reference", "nowhere")):
        with pytest.raises(SystemExit) as stop:
            main(["eval", *arguments, "--metrics", "kid,fdi"])
        assert stop.value.code == 2
        assert capfd.readouterr().err == "gantk: there is no metric `fdi`; did you mean `fid`?\n"
