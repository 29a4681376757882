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
    assert "gantk: scores of different protocols are not ranked; they differ in fd_pixel_pca by `n_fake`" in err
    code, out, _ = run(capfd, "good", "few", "--json")
    assert code == 2
    assert list(json.loads(out)["differs"]["fd_pixel_pca"]) == ["n_fake"]


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
