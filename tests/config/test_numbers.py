"""Numbers that are none: every number of a config and of the command line is finite, or refused with exit code 2."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from gantk.cli import app, main
from gantk.config import Config, parse_config
from gantk.config.base import Section, section_in
from gantk.config.loading import apply_overrides
from gantk.errors import ConfigError
from gantk.networks import NETWORKS
from gantk.objectives import OBJECTIVES

BASE: dict[str, Any] = {
    "name": "base",
    "data": {"source": "digits", "resolution": 8},
    "extra_data": {"b": {"source": "digits", "resolution": 8}},
    "network": {"type": "dcgan", "width": 8},
    "objective": {"type": "gan"},
    "train": {"kimg": 1},
}
NOT_NUMBERS = (".inf", "-.inf", ".nan", "inf", "nan", "1e400")


def leaves(annotation: Any) -> set[type]:
    """The plain types in an annotation."""
    if isinstance(annotation, type):
        return {annotation}
    return {leaf for part in typing.get_args(annotation) for leaf in leaves(part)}


def forms(annotation: Any) -> Iterator[str]:
    """How a number can be written for it: alone, in a list, by name."""
    if leaves(annotation) & {int, float} and bool not in leaves(annotation):
        text = str(annotation)
        if "tuple[" in text:
            yield "[{0}, {0}]"
        if "dict[" in text:
            yield "{{g: {0}}}"
        if "tuple[" not in text:
            yield "{0}"


def numbers(model: type[BaseModel], prefix: str, given: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """An override, with a place for a number, for each number of a section; and what else must be given for it."""
    for key, field in model.model_fields.items():
        path = f"{prefix}{key}"
        below = section_in(field.annotation)
        if key == "extra_data":
            path, below = "extra_data.b", section_in(field.annotation)
        if below is not None and below is not Section:
            # An optional section is there with what it needs.
            needs = [f"{name}: 1" for name, other in below.model_fields.items() if other.is_required()]
            there = (
                ()
                if not str(field.annotation).endswith("None") and "None" not in str(field.annotation)
                else (f"{path}={{{', '.join(needs)}}}",)
            )
            yield from numbers(below, f"{path}.", (*given, *there))
        else:
            for form in forms(field.annotation):
                yield f"{path}={form}", given


def every_number() -> list[tuple[str, tuple[str, ...]]]:
    found = list(numbers(Config, ""))
    for section, registry in (("network", NETWORKS), ("objective", OBJECTIVES)):
        for name in registry.names():
            if not registry.get(name).__module__.startswith("gantk."):
                continue
            found += numbers(registry.get(name).Config, f"{section}.", (f"{section}={{type: {name}}}",))
    found += [
        (f"optimizer.phases.g.{path.partition('.')[2]}", given)
        for path, given in found
        if path.startswith("optimizer.")
    ]
    return found


EVERY = every_number()


def test_the_walk_finds_the_numbers() -> None:
    paths = {override.partition("=")[0] for override, _ in EVERY}
    assert {
        "seed", "train.kimg", "optimizer.lr", "optimizer.betas", "optimizer.schedule.final", "optimizer.phases.g.lr",
        "optimizer.phases.g.schedule.warmup_kimg", "network.width", "network.attention", "network.init_std",
        "objective.regularization.r1.gamma", "objective.regularization.gradient_penalty.schedule.end_kimg",
        "collapse.learning_rate_factor", "extra_data.b.limit", "data.heldout_fraction", "samples.every_kimg",
    } <= paths  # fmt: skip
    assert len(paths) > 60


@pytest.mark.parametrize(("override", "given"), EVERY, ids=[f"{o} {' '.join(g)}" for o, g in EVERY])
def test_no_number_of_a_config_is_infinite(override: str, given: tuple[str, ...]) -> None:
    path = override.partition("=")[0]
    for number in NOT_NUMBERS:
        with pytest.raises(ConfigError) as caught:
            parse_config(apply_overrides(BASE, [*given, override.format(number)]))
        assert f"`{path}" in str(caught.value), number
        assert len(str(caught.value).splitlines()) == 1 or "tuple" in override or "[" in override, str(caught.value)


def test_a_plugins_numbers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_of_numbers.py").write_text(
        "from typing import Any, Literal\n"
        "from gantk.networks import NETWORKS, LatentConfig\n"
        "from gantk.networks.dcgan import DCGAN\n"
        "class OwnConfig(LatentConfig):\n"
        "    type: Literal['numbers'] = 'numbers'\n"
        "    slope: float = 0.2\n"
        "    anything: Any = None\n"
        "@NETWORKS.register('numbers')\n"
        "class Own(DCGAN):\n"
        "    Config = OwnConfig\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        for key, value in (("slope", ".inf"), ("slope", "nan"), ("anything", "{a: [.inf]}"), ("anything", "1e16")):
            with pytest.raises(ConfigError, match=f"`network.{key}"):
                parse_config(
                    apply_overrides(
                        BASE, ["plugins=[nets_of_numbers]", "network={type: numbers}", f"network.{key}={value}"]
                    )
                )
    finally:
        NETWORKS._classes.pop("numbers", None)


# The command line


def number_options() -> list[tuple[tuple[str, ...], str]]:
    """Each option of each command that takes a number."""

    def walk(group: typer.Typer, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
        for below in group.registered_groups:
            yield from walk(below.typer_instance, (*words, str(below.name)))  # type: ignore[arg-type]
        for command in group.registered_commands:
            assert command.callback is not None
            name = command.name or command.callback.__name__.replace("_", "-")
            for parameter, hint in typing.get_type_hints(command.callback, include_extras=True).items():
                if leaves(typing.get_args(hint)[0] if typing.get_args(hint) else hint) & {int, float}:
                    yield (*words, name), f"--{parameter.replace('_', '-')}"

    return list(walk(app, ()))


def test_options_that_take_a_number_are_found() -> None:
    assert {"--truncation", "--samples", "--count", "--seed"} <= {option for _, option in number_options()}


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e400", "1" + 30 * "0", "-1"])
@pytest.mark.parametrize(("words", "option"), number_options())
def test_no_number_on_the_command_line_is_infinite(
    words: tuple[str, ...], option: str, number: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*words, f"{option}={number}"])
    out, err = capfd.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert f"Invalid value for '{option}'" in err
