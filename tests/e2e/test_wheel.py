"""The wheel, installed where there is no checkout: outside the repository, among a user's own `evaluation/` and `datasets/`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment with the wheel in it, and our dependencies but not our checkout."""
    home = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True, timeout=120)
    commands = home / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", str(commands / "python"), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)], check=True, timeout=120)
    (packages,) = home.glob("lib/python*/site-packages")
    # The folder is added as it is; the .pth file in it that leads to the checkout is not followed.
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return commands


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's repository, with packages of its own that would break whoever imports them, and a config."""
    for package in ("evaluation", "datasets", "configs"):
        (tmp_path / "work" / package).mkdir(parents=True)
        (tmp_path / "work" / package / "__init__.py").write_text(
            "raise ImportError('this is the user\\'s own package')\n"
        )
    (tmp_path / "work" / "run.yaml").write_text((ROOT / "configs" / "tiny.yaml").read_text())
    return tmp_path / "work"


def run(command: list[str], folder: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    kept |= {"OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "huggingface"), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=folder, env={**kept, **extra}, capture_output=True, text=True, timeout=280)


def test_what_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"gantk/py.typed", "gantk_eval/py.typed", "gantk/train.py", "gantk_eval/images.py"} <= names
    top = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert top == {"gantk", "gantk_eval"}, "and nothing that would collide with a user's own folders"
    sources = {
        path.relative_to(base).as_posix()
        for base in (ROOT, ROOT / "evaluation")
        for package in ("gantk", "gantk_eval")
        for path in (base / package).rglob("*.py")
    }
    assert sources <= names
    recipes = {f"gantk/recipes/configs/{file.name}" for file in (ROOT / "configs").glob("*.yaml")}
    assert "gantk/recipes/configs/quickstart.yaml" in recipes
    assert recipes == {name for name in names if name.endswith(".yaml")}


def test_it_is_the_wheel_that_runs(installed: Path, folder: Path) -> None:
    code = "import gantk, gantk_eval, gantk.train; print(gantk.__file__); print(gantk_eval.__file__)"
    done = run([str(installed / "python"), "-c", code], folder.parent)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(str(installed.parent)) for line in done.stdout.splitlines())
    assert len(done.stdout.splitlines()) == 2


def test_train_and_evaluate_in_a_repository_with_packages_of_the_same_names(installed: Path, folder: Path) -> None:
    trained = run([str(installed / "gantk"), "train", "--config", "run.yaml", "evaluate.every_kimg=1000"], folder)
    assert trained.returncode == 0, trained.stderr
    scored = run([str(installed / "gantk"), "eval", "--ckpt", "tiny", "--json", "--samples", "200"], folder)
    assert scored.returncode == 0, scored.stderr
    result = json.loads(scored.stdout)
    assert any(name.startswith("fd_") for name in result["metrics"])
    assert result["protocol"]["n_fake"] == 200


def test_recipes_are_known_by_name_where_there_is_no_checkout(installed: Path, folder: Path) -> None:
    listed = run([str(installed / "gantk"), "list"], folder)
    assert listed.returncode == 0, listed.stderr
    for file in (ROOT / "configs").glob("*.yaml"):
        assert f"recipe     {file.stem} " in listed.stdout
    arguments = ("tiny", "evaluate.every_kimg=1000", "train.kimg=0.064", "optimizer.lr=1e-3")
    trained = run([str(installed / "gantk"), "train", *arguments], folder)
    assert trained.returncode == 0, trained.stderr
    assert (Path(os.environ["GANTK_RUNS"]) / "tiny-lr-0.001" / "config.yaml").is_file()


def test_accelerate_launches_it_without_a_checkout(installed: Path, folder: Path) -> None:
    """`-m gantk train` puts the working folder first on the path; a user's `datasets/` there is then theirs."""
    for package in ("evaluation", "datasets", "configs"):
        (folder / package / "__init__.py").write_text("")
    launch = [str(installed / "python"), "-m", "accelerate.commands.launch", "--quiet", "-m", "gantk"]
    done = run([*launch, "train", "--config", "run.yaml", "evaluate.every_kimg=1000"], folder)
    assert done.returncode == 0, done.stderr
