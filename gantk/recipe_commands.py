"""The commands that take a recipe or a config: train, prepare, config, doctor, init; and the list of what there is."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gantk.command_options import ConfigOption, Words, is_main
from gantk.errors import ConfigError

if TYPE_CHECKING:
    from gantk.recipes.choosing import Choice

NameOption = Annotated[
    str | None,
    typer.Option(help="The run's name. Default: the config's; a recipe's followed by the settings laid over it."),
]


DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help="Your own images, in place of a recipe's; without a recipe, one that suits them is chosen. Also .parquet, .npz.",
    ),
]


def _choice(config: str | None, words: list[str] | None, name: str | None = None, data: str | None = None) -> Choice:
    """Return the config that a command asks for, and print what there is to say about it."""
    from gantk.recipes.choosing import choose

    choice = choose(config, words or (), name=name, data=data)
    if is_main():
        for note in choice.notes:
            typer.echo(note, err=True)
    return choice


def train(
    words: Words = None,
    config: ConfigOption = None,
    data: DataOption = None,
    name: NameOption = None,
    resume: Annotated[
        str,
        typer.Option(metavar="auto|never|PATH", help="Go on from the newest checkpoint, refuse to, or from this one."),
    ] = "auto",
    allow_changes: Annotated[bool, typer.Option("--allow-changes", help="Resume although the config differs.")] = False,
) -> None:
    """Train. The same command again resumes where it was.

    gantk train quickstart

    gantk train dcgan_mnist optimizer.lr=1e-3

    gantk train --data my-images

    On several GPUs: accelerate launch --multi_gpu gantk/train.py --config configs/dcgan_lsun.yaml
    """
    # The words first: a recipe that is not there is said before PyTorch has been imported.
    settings = _choice(config, words, name, data).config
    from gantk.api import train as run_training

    run = run_training(settings, resume=resume, allow_changes=allow_changes)
    if is_main():
        more = "" if run.best is not None else f"; score it with: gantk eval --ckpt {settings.name}"
        typer.echo(f"done: {run.folder} (samples in {run.folder / 'samples'}){more}", err=True)


def prepare(words: Words = None, config: ConfigOption = None, data: DataOption = None) -> None:
    """Fetch and decode the data into the cache, on a login node say, and train nothing.

    gantk prepare dcgan_lsun
    """
    from gantk.data import open_datasets

    settings = _choice(config, words, data=data).config
    for name, dataset in open_datasets(settings, progress=True).items():
        typer.echo(dataset.description)
        if dataset.commit is not None:
            at, path = f"extra_data.{name}" if name else "data", settings.sources[name].path
            typer.echo(f"the hub's commit of {path}, to pin it by: {at}.revision={dataset.commit}")


def show_config(words: Words = None, config: ConfigOption = None, data: DataOption = None) -> None:
    """Print the whole config with every default filled in, or say what is wrong with it.

    gantk config dcgan_mnist train.batch_size=256
    """
    from gantk.config import dump_yaml

    typer.echo(dump_yaml(_choice(config, words, data=data).config), nl=False)


def doctor(words: Words = None, config: ConfigOption = None, data: DataOption = None) -> None:
    """Say what this machine has, what a config needs, what is missing and how to get it.

    gantk doctor dcgan_lsun
    """
    from gantk.doctor import examine

    settings = _choice(config, words, data=data).config if config or words or data else None
    report = examine(settings)
    typer.echo(report.text)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def init(
    words: Words = None,
    config: ConfigOption = None,
    data: DataOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="A new file, whose run is called so. Default: RECIPE.yaml.")
    ] = None,
) -> None:
    """Write a recipe's config into a file of your own, every key with what it means.

    gantk init dcgan_mnist --out faces.yaml

    gantk train faces.yaml
    """
    from gantk.config.loading import apply_overrides, read_yaml
    from gantk.recipes.commented import init_text

    choice = _choice(config, words, None if out is None else out.stem, data)
    file = out or Path(f"{choice.config.name}.yaml")
    if file.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"`--out {file}` must end in .yaml")
    title = "\n".join(choice.notes) if data is not None else None
    laid_over = apply_overrides({}, choice.overrides)
    text = init_text(choice.config, choice.file, laid_over, read_yaml(choice.file), title=title)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{file} is there already: give another file with `--out`") from error
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}; give another file with `--out`") from error
    typer.echo(str(file))
    typer.echo(f"edit it, and train it with: gantk train {file}", err=True)


def list_all(
    plugins: Annotated[
        list[str] | None, typer.Option("--plugins", metavar="MODULE", help="Import this first. May be given again.")
    ] = None,
) -> None:
    """List the recipes, runs (with score, verdict and age), networks, objectives and losses there are."""
    from gantk.losses import LOSSES
    from gantk.networks import NETWORKS
    from gantk.objectives import OBJECTIVES
    from gantk.recipes import recipes, summary
    from gantk.recipes.runs_table import describe_runs

    _import(plugins or ())
    for recipe, file in recipes().items():
        typer.echo(f"recipe     {recipe:24} {summary(file)}")
    for run, line in describe_runs().items():
        typer.echo(f"run        {run:24} {line}")
    for what, names in (
        ("network", NETWORKS.names()),
        ("objective", OBJECTIVES.names()),
        ("loss", list(LOSSES)),
    ):
        for name in names:
            typer.echo(f"{what:10} {name}")


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(
                f"`--plugins {module}` cannot be imported ({error}): install it, or put its folder on PYTHONPATH"
            ) from error


COMMANDS: dict[str, Callable[..., Any]] = {
    "train": train,
    "prepare": prepare,
    "config": show_config,
    "doctor": doctor,
    "init": init,
    "list": list_all,
}
"""The commands by their names on the command line."""
