"""A run finds its data from any folder, and a path to nothing leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from gantk.cli import main
from gantk.config import load_config

TINY = Path(__file__).resolve().parents[2] / "configs" / "tiny.yaml"
SHORT = ("train.kimg=0.064", "evaluate.every_kimg=.1", "checkpoint.every_kimg=0.064", "tracking.progress=false")
SCORE = ("eval", "--ckpt", "tiny", "--metrics", "fd_pixel_pca", "--samples", "20")


def gantk(capfd: pytest.CaptureFixture[str], *command: object) -> tuple[int, str]:
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in command])
    return int(end.value.code or 0), capfd.readouterr().err


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with training and held-out images, which is the working folder."""
    root = tmp_path / "project"
    for name, count, seed in (("photos", 80, 0), ("heldout", 20, 1)):
        (root / "sets" / name).mkdir(parents=True)
        for number, pixels in enumerate(np.random.default_rng(seed).integers(0, 255, (count, 8, 8), dtype=np.uint8)):
            Image.fromarray(pixels).save(root / "sets" / name / f"{number}.png")
    monkeypatch.chdir(root)
    return root


def train(capfd: pytest.CaptureFixture[str], *more: str, path: str = "sets/photos") -> tuple[int, str]:
    data = ("data.source=folder", f"data.path={path}", "data.heldout_path=sets/heldout")
    return gantk(capfd, "train", "--config", TINY, *data, *SHORT, *more)


def test_from_any_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, err = train(capfd)
    assert code == 0, err
    run = Path(os.environ["GANTK_RUNS"]) / "tiny"
    checkpoint = next((run / "checkpoints").glob("step-*"))
    for record in (run / "config.yaml", checkpoint / "config.yaml"):
        data = load_config(record).data
        assert (data.path, data.heldout_path) == (str(project / "sets/photos"), str(project / "sets/heldout"))
    # The same place, told in another way, is the same; from elsewhere the record says where it is.
    for folder, path in ((project, "sets/../sets/photos"), (tmp_path, "sets/photos")):
        monkeypatch.chdir(folder)
        for command in (SCORE, ("sample", "--ckpt", "tiny", "--out", tmp_path / "a.png", "--count", 4)):
            code, err = gantk(capfd, *command)
            assert code == 0, err
            assert "not those that the model was trained on" not in err
        kimg = "train.kimg=0.096" if folder == project else "train.kimg=0.128"
        code, err = train(capfd, kimg, path=path)
        assert code == 0, err
        assert "resuming from" in err
    assert "changed config: data" not in (run / "log.txt").read_text()
    assert load_config(run / "config.yaml").data.path == str(project / "sets/photos")


def test_a_project_that_was_moved(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GANTK_RUNS", "runs")
    assert train(capfd)[0] == 0
    elsewhere = project.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANTK_RUNS", str(elsewhere / "runs"))
    code, err = gantk(capfd, *SCORE)
    assert code == 0, err
    assert "not those that the model was trained on" not in err
    monkeypatch.chdir(elsewhere)
    code, err = train(capfd, "train.kimg=0.096")
    assert code == 0, err
    assert f"data.path was {project / 'sets/photos'}, where nothing is, and is {elsewhere / 'sets/photos'} now" in err


def test_another_place_with_other_images_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(capfd)[0] == 0
    code, err = train(capfd, "train.kimg=0.096", "data.heldout_path=null", path="sets/heldout")
    assert code == 4
    assert "data.path: " in err


@pytest.mark.parametrize("key", ["path", "heldout_path"])
def test_a_path_to_nothing_leaves_nothing_behind(key: str, project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, err = train(capfd, f"data.{key}=sets/fotos")
    assert code == 3
    assert f"gantk: {project / 'sets/fotos'} does not exist; set data.{key} to a folder of images\n" in err
    assert not (Path(os.environ["GANTK_RUNS"]) / "tiny").exists()


def test_the_hub_is_hinted_at_for_what_may_be_an_id_alone(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "data.source=hub" in train(capfd, path="owner/photos")[1]
    for path in ("sets/photo", "owner/photos.zip", "./owner/photos", "photos"):
        code, err = train(capfd, path=path)
        assert code == 3
        assert "Hugging Face" not in err, path


def test_paths_of_extra_sources_and_variables(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from gantk.config import parse_config
    from gantk.data.places import with_absolute_paths

    monkeypatch.setenv("SETS", str(project / "sets"))
    values = yaml.safe_load(TINY.read_text())
    values["data"] = {"source": "folder", "path": "$SETS/photos", "resolution": 8}
    values["extra_data"] = {
        "b": {"source": "parquet", "path": "sets/*.parquet", "resolution": 8},
        "c": {"source": "hub", "path": "owner/name", "resolution": 8},
    }
    settled = with_absolute_paths(parse_config(values))
    assert settled.data.path == "$SETS/photos"
    assert settled.extra_data["b"].path == str(project / "sets" / "*.parquet")
    assert settled.extra_data["c"].path == "owner/name"
