"""What several commands share: options, and who of several processes speaks."""

from __future__ import annotations

import os
from typing import Annotated

import typer

ConfigOption = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", help="The run's YAML file. In its place a recipe may be named first."),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY.SUB=VALUE]...",
        help="A recipe's name (see `gantk list`) or a YAML file; then settings laid over it, as train.batch_size=64.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", metavar="auto|cpu", help="`cpu` keeps off the accelerator.")]


def is_main() -> bool:
    """Whether this is the process that speaks, of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"
