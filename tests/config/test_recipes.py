"""Recipes by name: which file a word stands for, and what its run is called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import said

import gantk
from gantk.config import dump_yaml, load_config
from gantk.errors import ConfigError
from gantk.recipes import find_config, recipes, summary
from gantk.recipes.choosing import choose

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "configs" / "tiny.yaml"


def test_the_recipes_are_the_configs_of_the_repository() -> None:
    assert recipes() == {file.stem: file for file in sorted((ROOT / "configs").glob("*.yaml"))}
    assert {"quickstart", "dcgan_cifar10", "tiny"} <= set(recipes())


def test_each_recipe_says_what_it_is_in_one_line() -> None:
    for name, file in recipes().items():
        assert 20 < len(summary(file)) <= 100, name
    assert summary(TINY) == "Seconds on one CPU core: for tests and for a first look at a run folder, not for pictures"


def test_the_summary_ends_with_the_first_sentence(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("# One two (Lin et al. 2018)\n# three. Four.\nname: x\n")
    assert summary(file) == "One two (Lin et al. 2018) three"
    file.write_text("name: x\n# not this\n")
    assert summary(file) == ""
    file.write_text("# " + "word " * 50)
    assert len(summary(file)) <= 100
    assert summary(file).endswith("word …")


def test_a_word_is_a_recipe_and_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "own").write_text(TINY.read_text())
    assert find_config("tiny") == TINY
    assert find_config("tiny.yaml") == Path("tiny.yaml")
    assert find_config("configs/tiny.yaml") == Path("configs/tiny.yaml")
    assert find_config("own") == Path("own")
    assert find_config(Path("tiny")) == Path("tiny")
    assert load_config("own").name == "tiny"
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ConfigError, match=r"`pictures` is a folder.*--data pictures"):
        find_config("pictures")


def test_an_unknown_recipe_gets_the_nearest_and_the_list() -> None:
    with pytest.raises(ConfigError, match=r"`quikstart`; did you mean `quickstart`\? The recipes are: .*dcgan_mnist"):
        find_config("quikstart")
    with pytest.raises(ConfigError, match="`zzzzzz`; The recipes are: cdcgan_mnist"):
        find_config("zzzzzz")


def test_a_config_that_is_in_the_wheel_alone_is_pointed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no config file configs/tiny\.yaml; .* `gantk train tiny`"):
        load_config("configs/tiny.yaml")


# Names


def named(*words: str, **options: str) -> str:
    return choose(None, ["tiny", *words], **options).config.name


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ((), "tiny"),
        (("optimizer.lr=1e-3",), "tiny-lr-0.001"),
        (("optimizer.lr=0.001",), "tiny-lr-0.001"),
        (("optimizer.lr=2e-4",), "tiny"),
        (("network.width=16", "optimizer.lr=1e-3"), "tiny-width-16-lr-0.001"),
        (("optimizer.lr=1e-3", "network.width=16"), "tiny-width-16-lr-0.001"),
        (("optimizer.phases.g.lr=1e-3",), "tiny-optimizer.phases.g.lr-0.001"),
        (("optimizer.betas=[0, 0.9]",), "tiny-betas-0.0-0.9"),
        (("network={type: mlp}",), "tiny-network-mlp"),
        (("objective.loss=hinge", "seed=3"), "tiny-seed-3-loss-hinge"),
        (("data.flip=true", "data.limit=null"), "tiny-flip-true"),
        (("train.kimg=9", "evaluate.samples=50", "tracking.progress=false", "checkpoint.keep=1"), "tiny"),
        (("name=mine", "optimizer.lr=1e-3"), "mine"),
    ],
)
def test_a_run_of_a_recipe_is_named_after_what_changes_it(overrides: tuple[str, ...], name: str) -> None:
    assert named(*overrides) == name


def test_the_name_is_said_once_and_only_where_it_is_another() -> None:
    assert choose(None, ["tiny"]).notes == ()
    (note,) = choose(None, ["tiny", "optimizer.lr=1e-3"]).notes
    assert "`tiny-lr-0.001`" in note
    assert "--name" in note


def test_a_name_on_the_command_line_counts() -> None:
    assert named("optimizer.lr=1e-3", name="42") == "42"
    assert choose(str(TINY), ["optimizer.lr=1e-3"], name="no").config.name == "no"


def test_what_a_name_cannot_hold_is_told_apart_by_a_hash(tmp_path: Path) -> None:
    places = [tmp_path / "a b", tmp_path / "a-b"]
    sources = [("data.source=npz", f"data.path={place}") for place in places]
    names = [named(*overrides) for overrides in sources]
    assert len(set(names)) == 2
    assert names == [named(*overrides) for overrides in sources]
    for name, place in zip(names, places, strict=True):
        assert len(name) <= 80
        assert load_config(TINY, [f"name={name}", "data.source=npz", f"data.path={place}"]).name == name


def test_a_config_file_keeps_its_name() -> None:
    assert choose(str(TINY), ["optimizer.lr=1e-3"]).config.name == "tiny"


def test_a_file_in_place_of_a_recipe_is_named_the_same_way(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(TINY.read_text().replace("  kimg: 1.28\n", ""))
    assert choose(None, [str(file), "train.kimg=2", "optimizer.lr=1e-3"]).config.name == "tiny-lr-0.001"


def test_words_that_are_no_command_line() -> None:
    with pytest.raises(ConfigError, match=r"no recipe is given: name one, as `gantk train quickstart`.*: cdcgan_mnist"):
        choose(None, ["train.kimg=3"])
    with pytest.raises(ConfigError, match="one recipe at a time, and there are 2: tiny, ring"):
        choose(None, ["tiny", "ring"])
    with pytest.raises(ConfigError, match="`ring` is not an override"):
        choose(str(TINY), ["ring"])


# The commands


def test_the_commands_take_a_recipe(capfd: pytest.CaptureFixture[str]) -> None:
    assert said(capfd, "config", "tiny")[:2] == (0, dump_yaml(load_config(TINY)))
    assert said(capfd, "config", "--config", "tiny")[:2] == (0, dump_yaml(load_config(TINY)))
    code, out, _ = said(capfd, "prepare", "tiny")
    assert (code, "digits" in out) == (0, True)
    code, out, _ = said(capfd, "doctor", "tiny", "optimizer.lr=1e-3")
    assert (code, "Run tiny-lr-0.001" in out) == (0, True), out
    for command in ("train", "prepare", "config", "doctor"):
        code, out, err = said(capfd, command, "tinny")
        assert (code, out) == (2, "")
        assert "did you mean `tiny`?" in err


SHORT = ("train.kimg=0.064", "evaluate.every_kimg=99", "tracking.progress=false")


def test_a_sweep_needs_no_names_and_each_run_resumes(capfd: pytest.CaptureFixture[str]) -> None:
    runs = Path(os.environ["GANTK_RUNS"])
    for rate in ("1e-3", "2e-3"):
        code, _, err = said(capfd, "train", "tiny", f"optimizer.lr={rate}", *SHORT)
        assert code == 0, err
    assert sorted(path.name for path in runs.iterdir()) == ["tiny-lr-0.001", "tiny-lr-0.002"]
    longer = ("train.kimg=0.128", "evaluate.every_kimg=98")
    code, _, err = said(capfd, "train", "tiny", "optimizer.lr=0.001", *SHORT, *longer)
    assert code == 0, err
    assert "step-00000002" in err
    assert sorted(path.name for path in runs.iterdir()) == ["tiny-lr-0.001", "tiny-lr-0.002"]


def test_python_takes_a_recipe_too() -> None:
    run = gantk.train("tiny", "optimizer.lr=1e-3", *SHORT)
    assert run.folder.name == "tiny-lr-0.001"
    assert gantk.load_config("tiny") == load_config(TINY)


def test_the_script_takes_a_recipe(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "gantk" / "train.py"), "quikstart"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean `quickstart`?" in done.stderr
