"""Options that several commands share, and who of several processes speaks."""

from __future__ import annotations

import math
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

MOST = 10**9
"""The largest number of images that an option takes."""
LAST_SEED = 2**31 - 1


def finite(value: float) -> float:
    """`value`, refused where it is not a number: `nan` is within every range."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


def is_main() -> bool:
    """Return whether this is the process that speaks, of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"
