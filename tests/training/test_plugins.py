"""Plugins: where they are found, and that a run, its checkpoints and its exports keep their text."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gantk
from gantk import plugins
from gantk.config import load_config
from gantk.errors import CheckpointError, ConfigError
from gantk.runs import find_checkpoint
from gantk.sampling import export_generator, load_sampler

TEXT = """
from typing import Literal
from gantk.objectives import OBJECTIVES
from gantk.objectives.gan import GAN, GANConfig
{more}
class OwnConfig(GANConfig):
    type: Literal["own_{name}"] = "own_{name}"

@OBJECTIVES.register("own_{name}")
class Own(GAN):
    Config = OwnConfig

    def generate(self, networks, z, labels=None):
        return super().generate(networks, z, labels) * {factor}
"""
QUICK = ("train.kimg=0.064", "evaluate.every_kimg=99", "samples.every_kimg=99", "checkpoint.every_kimg=0.032")


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    modules, path, loaded = set(sys.modules), list(sys.path), dict(plugins._loaded)
    yield
    for name in set(sys.modules) - modules:
        if name.partition(".")[0].startswith("own_"):
            del sys.modules[name]
    sys.path[:] = path
    plugins._loaded.clear()
    plugins._loaded.update(loaded)
    plugins._Copies.files.clear()


def write(folder: Path, name: str, factor: float = 1.0, more: str = "") -> Path:
    """A plugin with the objective `own_NAME`, and a config beside it that names its file; gives the config."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"own_{name}.py").write_text(TEXT.format(name=name, factor=factor, more=more))
    config = (Path(__file__).parents[2] / "configs" / "tiny.yaml").read_text()
    config = config.replace("type: gan", f"type: own_{name}") + f"plugins: [own_{name}.py]\n"
    (folder / "run.yaml").write_text(config.replace("name: tiny", f"name: {name}"))
    return folder / "run.yaml"


def test_a_path_is_relative_to_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "there", "beside")
    monkeypatch.chdir(tmp_path)
    config = load_config(file)
    assert config.plugins == (str(tmp_path / "there" / "own_beside.py"),)
    assert config.objective.type == "own_beside"  # type: ignore[attr-defined]
    # An override's, to the working folder as well.
    assert load_config(file, ["plugins=[there/own_beside.py]"]).plugins == config.plugins


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("no_such.py", r"run\.yaml: `plugins` names .*no_such\.py, which is not there"),
        ("empty/", r"empty, which is a folder without `__init__\.py`"),
        ("random.py", r"there is another module `random` \(.*\): rename yours"),
        ("own-dash.py", r"`own-dash` cannot be a module's name: rename it"),
        ("no_such_module", r"`plugins` names the module `no_such_module`, which cannot be imported"),
    ],
)
def test_what_is_no_plugin_is_said(entry: str, sentence: str, tmp_path: Path) -> None:
    file = write(tmp_path, "refused")
    (tmp_path / "empty").mkdir()
    for name in ("random.py", "own-dash.py"):
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigError, match=sentence):
        load_config(file, [f"plugins=[{entry}]"])


def test_a_plugins_own_mistake_is_shown_with_its_lines(tmp_path: Path) -> None:
    file = write(tmp_path, "broken", more="import a_module_that_is_nowhere")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_nowhere") as caught:
        load_config(file)
    assert any(Path(entry.path).name == "own_broken.py" for entry in caught.traceback)
    done = subprocess.run([sys.executable, "-m", "gantk", "config", "--config", file], capture_output=True, text=True)
    assert done.returncode == 1
    assert "own_broken.py" in done.stderr
    assert "import a_module_that_is_nowhere" in done.stderr


def test_the_texts_of_a_package_and_of_what_stands_beside_it(tmp_path: Path) -> None:
    package = tmp_path / "own_package"
    write(package / "deep", "inner")
    (package / "__init__.py").write_text("from .deep import own_inner\nimport own_helper\nimport json, torch\n")
    (package / "deep" / "__init__.py").write_text("")
    (tmp_path / "own_helper.py").write_text("from own_second import X\n")
    (tmp_path / "own_second.py").write_text("X = 1\n")
    (tmp_path / "own_stranger.py").write_text("")
    plugins.import_plugins([str(package)], "x")
    (read,) = plugins.read_plugins([str(package)])
    wanted = {
        "own_package.__init__",
        "own_package.deep.__init__",
        "own_package.deep.own_inner",
        "own_helper",
        "own_second",
    }
    assert set(read.texts) == wanted
    before = read.sha256
    (tmp_path / "own_second.py").write_text("X = 2\n")
    (again,) = plugins.read_plugins([str(package)])
    assert again.sha256 != before
    plugins.import_plugins([str(package)], "x")
    assert sys.modules["own_second"].X == 2, "the text that is recorded is the one that is run"


def test_the_texts_of_what_is_imported_from_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On PYTHONPATH, and not installed: as much the user's own as what stands beside the plugin."""
    (tmp_path / "lib" / "own_library").mkdir(parents=True)
    (tmp_path / "lib" / "own_library" / "__init__.py").write_text("from .parts import X\n")
    (tmp_path / "lib" / "own_library" / "parts.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    file = write(tmp_path / "there", "far", more="import json, numpy, torch, yaml\nfrom own_library import X\n")
    folder = gantk.train(file, *QUICK).folder
    assert (folder / "plugins" / "own_library" / "parts.py").read_text() == "X = 1\n"
    (read,) = plugins.read_plugins(load_config(file).plugins)
    assert set(read.texts) == {"own_far", "own_library.__init__", "own_library.parts"}
    (tmp_path / "lib" / "own_library" / "parts.py").write_text("X = 7\n")
    with pytest.raises(CheckpointError, match="plugin own_far: "):
        gantk.train(file, *QUICK, "train.kimg=0.128")
    # Where the library is gone, the checkpoint brings it along.
    shutil.rmtree(tmp_path / "lib")
    load_sampler(find_checkpoint("far").checkpoint)
    assert sys.modules["own_library.parts"].X == 1


def test_a_run_keeps_the_text_and_does_not_resume_with_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "there", "kept")
    folder = gantk.train(file, *QUICK).folder
    original = (tmp_path / "there" / "own_kept.py").read_text()
    record = json.loads((folder / "plugins" / "plugins.json").read_text())["plugins"]
    assert (folder / "plugins" / "own_kept.py").read_text() == original
    (plugin,) = plugins.read_plugins(load_config(file).plugins)
    assert record == [plugin.record()]
    checkpoint = find_checkpoint("kept").checkpoint
    assert checkpoint.state["plugins"] == record
    assert checkpoint.file("plugin.own_kept.py").read_text() == original
    # Elsewhere it is the same plugin.
    shutil.move(tmp_path / "there", tmp_path / "elsewhere")
    gantk.train(tmp_path / "elsewhere" / "run.yaml", *QUICK, "train.kimg=0.096")
    file = write(tmp_path / "elsewhere", "kept", factor=7.0)
    with pytest.raises(CheckpointError, match=r"plugin own_kept: \w{12} → \w{12}.*plugin\.NAME\.py.*`--allow-changes`"):
        gantk.train(file, *QUICK, "train.kimg=0.128")
    caplog.clear()
    gantk.train(file, *QUICK, "train.kimg=0.128", allow_changes=True)
    assert "resuming with a changed config: plugin own_kept" in caplog.text
    assert (folder / "plugins" / "own_kept.py").read_text() != original


def test_a_checkpoint_is_loaded_with_the_text_that_it_was_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, "own", factor=0.5)
    gantk.train(file, *QUICK)
    checkpoint = find_checkpoint("own").checkpoint
    index = np.arange(6)
    wanted = load_sampler(checkpoint)[0].raw(index)
    export_generator(checkpoint, tmp_path / "export")
    exported = find_checkpoint(str(tmp_path / "export")).checkpoint
    assert exported.file("plugin.own_own.py").read_text() == (tmp_path / "own_own.py").read_text()
    write(tmp_path, "own", factor=0.25)
    for change in ("changed", "gone"):
        # The user's own run, with its copy.
        assert (load_sampler(checkpoint)[0].raw(index) == wanted).all(), change
        # From elsewhere, only where that is wanted.
        monkeypatch.delenv(plugins.TRUST, raising=False)
        with pytest.raises(
            CheckpointError, match=rf"export was trained with the plugin `own_own`, .*{plugins.TRUST}=1"
        ):
            load_sampler(exported)
        monkeypatch.setenv(plugins.TRUST, "1")
        assert (load_sampler(exported)[0].raw(index) == wanted).all(), change
        # And a config that names the changed one gets that.
        if change == "changed":
            config = load_config(file)
            assert sys.modules["own_own"].__file__ == config.plugins[0]
            (tmp_path / "own_own.py").unlink()


def test_an_export_from_elsewhere_in_a_process_of_its_own(tmp_path: Path) -> None:
    gantk.train(write(tmp_path / "there", "sent"), *QUICK)
    export_generator(find_checkpoint("sent").checkpoint, tmp_path / "export")
    shutil.rmtree(tmp_path / "there")
    command = [
        sys.executable,
        "-m",
        "gantk",
        "sample",
        "--ckpt",
        str(tmp_path / "export"),
        "--out",
        str(tmp_path / "s.npz"),
    ]
    environment = {**os.environ, "GANTK_RUNS": str(tmp_path / "none")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, "Traceback" in done.stderr) == (4, False)
    assert "loading it runs that code" in done.stderr
    done = subprocess.run(command, capture_output=True, text=True, env={**environment, plugins.TRUST: "1"})
    assert done.returncode == 0, done.stderr
    assert len(np.load(tmp_path / "s.npz")["images"]) == 64


def test_a_file_in_a_checkpoint_that_its_config_does_not_name_is_not_run(tmp_path: Path) -> None:
    gantk.train(Path(__file__).parents[2] / "configs" / "tiny.yaml", *QUICK)
    checkpoint = find_checkpoint("tiny").checkpoint
    (checkpoint.folder / "plugin.own_evil.py").write_text("raise SystemExit('run')\n")
    checkpoint.state["plugins"] = [{"entry": "own_evil", "module": "own_evil", "files": ["own_evil"], "sha256": "0"}]
    load_sampler(checkpoint)
    assert "own_evil" not in sys.modules
