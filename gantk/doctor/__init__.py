"""`gantk doctor`: what this machine has, what a config needs, and what would mend whatever is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gantk.doctor import machine, run
from gantk.doctor.environment import environment_variables
from gantk.doctor.page import Page

if TYPE_CHECKING:
    from gantk.config import Config

__all__ = ["Examination", "examine"]


@dataclass(frozen=True)
class Examination:
    """What `gantk doctor` found.

    `exit_code`: 0 where the config could run (and always without a config), else the exit code of the first thing that
    would stop it (2 config, 3 data).
    """

    text: str
    exit_code: int


def examine(config: Config | None) -> Examination:
    """Look at this machine and, where there is a config, at everything that a run of it needs.

    Every image of the config's data is read. Nothing is downloaded or written, and the network is asked one thing at
    most: whether a dataset that is not on this disk is on the hub (5 s).
    """
    page = Page()
    page.title("This machine")
    if machine.packages(page, config):
        machine.hardware(page)
        machine.processes(page, config)
        machine.disk(page)
        environment_variables(page)
        page.title("Optional")
        machine.inception(page, config)
        machine.wandb_key(page, config)
        if config is not None:
            page.title(f"Run {config.name}")
            run.settings(page, config)
            page.title("Data")
            sources = {"data": config.data, **{f"extra_data.{k}": d for k, d in config.extra_data.items()}}
            shapes = [run.data_of(page, name, data, config) for name, data in sources.items()]
            if shapes[0] is not None:
                page.title("Networks")
                run.networks(page, config, shapes[0])
    if config is not None:
        page.title(_verdict(page, config))
    return Examination("\n".join(page.lines), page.stop[0] if config is not None and page.stop else 0)


def _verdict(page: Page, config: Config) -> str:
    if page.stop is None:
        return f"Run {config.name} can be trained here."
    return f"Run {config.name} would stop with exit code {page.stop[0]}: see `{page.stop[1]}` above."
