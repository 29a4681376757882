"""The commands that take a recipe or a config: train, prepare, config, doctor; and the list of what there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gantk.command_options import ConfigOption, Words, is_main

if TYPE_CHECKING:
    from gantk.config import Config

NameOption = Annotated[
    str | None,
    typer.Option(help="The run's name. Default: the config's; a recipe's followed by the settings laid over it."),
]


def _chosen(config: str | None, words: list[str] | None, name: str | None = None) -> Config:
    """The config that a command asks for; what there is to say about it is said."""
    from gantk.recipes.choosing import choose

    choice = choose(config, words or (), name=name)
    if is_main():
        for note in choice.notes:
            typer.echo(note, err=True)
    return choice.config


def train(
    words: Words = None,
    config: ConfigOption = None,
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

    On several GPUs: accelerate launch --multi_gpu gantk/train.py --config configs/dcgan_lsun.yaml
    """
    # The words first: a recipe that is not there is said before PyTorch has been imported.
    settings = _chosen(config, words, name)
    from gantk.api import train as run_training

    run = run_training(settings, resume=resume, allow_changes=allow_changes)
    if is_main():
        more = "" if run.best is not None else f"; score it with: gantk eval --ckpt {settings.name}"
        typer.echo(f"done: {run.folder} (samples in {run.folder / 'samples'}){more}", err=True)


def prepare(words: Words = None, config: ConfigOption = None) -> None:
    """Fetch and decode the data into the cache, on a login node say, and train nothing.

    gantk prepare dcgan_lsun
    """
    from gantk.data import open_datasets

    settings = _chosen(config, words)
    for name, dataset in open_datasets(settings, progress=True).items():
        typer.echo(dataset.description)
        if dataset.commit is not None:
            at, path = f"extra_data.{name}" if name else "data", settings.sources[name].path
            typer.echo(f"the hub's commit of {path}, to pin it by: {at}.revision={dataset.commit}")


def show_config(words: Words = None, config: ConfigOption = None) -> None:
    """Print the whole config with every default filled in, or say what is wrong with it.

    gantk config dcgan_mnist train.batch_size=256
    """
    from gantk.config import dump_yaml

    typer.echo(dump_yaml(_chosen(config, words)), nl=False)


def doctor(words: Words = None, config: ConfigOption = None) -> None:
    """Say what this machine has, what a config needs, what is missing and how to get it.

    gantk doctor dcgan_lsun
    """
    from gantk.doctor import examine

    settings = _chosen(config, words) if config or words else None
    report = examine(settings)
    typer.echo(report.text)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def list_all() -> None:
    """List the recipes, runs, networks, objectives and losses there are."""
    from gantk.losses import LOSSES
    from gantk.networks import NETWORKS
    from gantk.objectives import OBJECTIVES
    from gantk.recipes import recipes, summary
    from gantk.records import read_json
    from gantk.runs import list_runs, runs_folder

    for recipe, file in recipes().items():
        typer.echo(f"recipe     {recipe:24} {summary(file)}")
    for run in list_runs():
        status = read_json(runs_folder() / run / "status.json") or {}
        typer.echo(f"run        {run:24} {status.get('state', '?')}, {status.get('kimg') or 0:g} kimg")
    for what, names in (
        ("network", NETWORKS.names()),
        ("objective", OBJECTIVES.names()),
        ("loss", list(LOSSES)),
    ):
        for name in names:
            typer.echo(f"{what:10} {name}")


COMMANDS: dict[str, Callable[..., Any]] = {
    "train": train,
    "prepare": prepare,
    "config": show_config,
    "doctor": doctor,
    "list": list_all,
}
"""What the command line calls each of them."""
