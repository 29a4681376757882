"""`gantk init`: a recipe to edit, whose text has every key with what it means and loads as the same config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import said
from pydantic import BaseModel

from gantk.config import Config, load_config, parse_config
from gantk.config.base import Section, section_in
from gantk.config.loading import apply_overrides, read_yaml
from gantk.networks import NETWORKS
from gantk.objectives import OBJECTIVES
from gantk.recipes import recipes
from gantk.recipes.choosing import choose
from gantk.recipes.commented import commented, init_text, remarks_of, title_of


def text_of(*words: str) -> tuple[str, Config]:
    choice = choose(None, list(words))
    values = read_yaml(choice.file)
    return init_text(choice.config, choice.file, apply_overrides({}, choice.overrides), values), choice.config


@pytest.mark.parametrize("name", sorted(recipes()))
def test_the_text_loads_as_an_equal_config(name: str, tmp_path: Path) -> None:
    text, config = text_of(name)
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert load_config(file) == config
    assert text.startswith(f"# {title_of(recipes()[name]).splitlines()[0]}")


@pytest.mark.parametrize("name", ["tiny", "quickstart", "ring"])
def test_the_defaults_may_be_set_by_taking_their_mark_away(name: str, tmp_path: Path) -> None:
    text, config = text_of(name)
    file = tmp_path / "c.yaml"
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("##")]
    start = next(number for number, line in enumerate(lines) if line.startswith("name:"))
    file.write_text(
        "\n".join(line.replace("# ", "", 1) if line.lstrip().startswith("# ") else line for line in lines[start:])
    )
    assert load_config(file) == config


def test_every_key_is_there_with_its_comment() -> None:
    text, config = text_of("quickstart")
    lines = text.splitlines()
    for path, description in documented(config):
        key = path.rpartition(".")[2]
        found = [number for number, line in enumerate(lines) if line.strip(" #").startswith(f"{key}:")]
        assert found, path
        above = " ".join(" ".join(line.strip(" #") for line in lines[max(0, number - 9) : number]) for number in found)
        assert " ".join(description.split())[:40] in " ".join(above.split()), path


def documented(section: Section, prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for key, field in type(section).model_fields.items():
        found.append((f"{prefix}{key}", field.description or ""))
        value = getattr(section, key)
        if isinstance(value, Section):
            found += documented(value, f"{prefix}{key}.")
    return found


def test_every_key_of_every_section_says_what_it_means() -> None:
    def undocumented(model: type[BaseModel], prefix: str) -> list[str]:
        found = []
        for key, field in model.model_fields.items():
            below = section_in(field.annotation)
            if below is not None and below is not Section:
                found += undocumented(below, f"{prefix}{key}.")
            elif not field.description and key != "type":
                found.append(f"{prefix}{key}")
        return found

    missing = undocumented(Config, "")
    for registry in (NETWORKS, OBJECTIVES):
        for name in registry.names():  # type: ignore[attr-defined]
            found: Any = registry.get(name)  # type: ignore[attr-defined]
            if found.__module__.startswith("gantk."):
                missing += undocumented(found.Config, f"{name}.")
    assert missing == []


def test_defaults_are_comments_and_what_the_recipe_writes_is_not() -> None:
    text, _ = text_of("dcgan_mnist", "objective.loss=hinge")
    lines = text.splitlines()
    assert "name: dcgan_mnist-loss-hinge" in lines
    assert "  betas: [0.5, 0.999]" in lines, "written in the recipe, though it is the default"
    assert "  loss: hinge" in lines
    assert "  # weight_decay: 0.0" in lines
    assert "  resolution: 28  # 7 · 2²: two strided layers" in lines
    assert "  # gradient_penalty: null" in [line[2:] for line in lines if line.startswith("    ")]


def test_remarks_are_found_by_path(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "# title\n#\n# more\nname: x  # one\na:  # two\n  b:\n    c: 'a#b'   # three\n"
        "              # and more\n  d: '#no'\nc: 3 # four\n"
    )
    assert remarks_of(file) == {"name": "one", "a": "two", "a.b.c": "three and more", "c": "four"}
    assert title_of(file) == "title\n\nmore"


def test_words_and_mappings_come_back(tmp_path: Path) -> None:
    config = parse_config(
        {
            "name": "off",
            "data": {"source": "digits", "resolution": 8, "label_column": "1e5"},
            "extra_data": {"b": {"source": "digits", "resolution": 8}},
            "network": {"type": "dcgan", "attention": [4]},
            "objective": {"type": "gan"},
            "optimizer": {"phases": {"g": {"lr": 1e-3}}},
            "train": {"kimg": 1},
            "collapse": {"learning_rate_factor": {"g": 0.1}},
        }
    )
    file = tmp_path / "c.yaml"
    file.write_text(commented(config, title="A title"))
    assert load_config(file) == config


# The command


def test_init_writes_a_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = said(capfd, "init", "tiny")
    assert (code, out) == (0, "tiny.yaml\n")
    assert "gantk train tiny.yaml" in err
    assert load_config("tiny.yaml") == load_config("tiny")
    before = Path("tiny.yaml").read_text()
    assert said(capfd, "init", "tiny")[0] == 2
    assert Path("tiny.yaml").read_text() == before
    assert said(capfd, "init", "tiny", "train.kimg=3", "--out", "mine.yaml")[0] == 0
    assert load_config("mine.yaml") == load_config("tiny", ["train.kimg=3", "name=mine"])
    for arguments, word in (
        (("tinny",), "did you mean `tiny`?"),
        (("tiny", "--out", "a.txt"), "must end in .yaml"),
        (("tiny", "--out", "no/such/a.yaml"), "cannot write no/such/a.yaml"),
        (("tiny", "--out", "a b.yaml"), "`a-b` would do"),
    ):
        code, out, err = said(capfd, "init", *arguments)
        assert (code, out) == (2, "")
        assert word in err
