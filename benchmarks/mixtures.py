"""Mode coverage on ring, grid and Stacked MNIST: our runs beside the published table, with the floors of a perfect sampler.

    python -m benchmarks.mixtures                          # the full protocol: hours a run
    python -m benchmarks.mixtures --steps 20000 --minutes 8  # rows of their own; the same command again goes on
    python -m benchmarks.mixtures --batched                # all seeds of a recipe in one run (replicas.py), as suits a GPU
    python -m benchmarks.mixtures --batched --graphed      # and all runs at once in this process, as CUDA graphs (graphed.py)

Each cell is a run of `configs/ring.yaml`, `grid.yaml` or `stacked_mnist.yaml` with a recipe's overrides, scored at its end on
as many samples as the protocol says, without averaged weights. Runs are resumable, and those that are whole are not run again;
what the results' file holds of other data, recipes, numbers of steps and seeds stays in it, and in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import records
from gantk.config import differences, load_config
from gantk.errors import UserError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BATCH = {"ring": 100, "grid": 100, "stacked_mnist": 64}
_BATCHED = "_batched"


@dataclass(frozen=True)
class Recipe:
    """What is laid over a config. A step judges as many packs as the plain GAN judges samples, as in the authors' code."""

    pack: int = 1
    overrides: tuple[str, ...] = ()
    of_data: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further ones, by data; where it is not empty, the recipe is for these data alone."""

    def laid_over(self, data: str, kimg: float) -> tuple[str, ...]:
        """The overrides for these data in a run of so many thousand images, for which `{kimg}` stands in them."""
        overrides = (*self.overrides, *self.of_data.get(data, ()))
        return tuple(override.replace("{kimg}", str(kimg)) for override in overrides)


def _penalties(gamma: float, *settings: str) -> tuple[str, ...]:
    """R1 and R2 with the same gamma, and further settings of both."""
    return tuple(
        f"objective.regularization.{name}.{setting}"
        for name in ("r1", "r2")
        for setting in (f"gamma={gamma}", *settings)
    )


# Gamma falls to a tenth over the run.
_FALLING = ("schedule.type=cosine", "schedule.final=0.1", "schedule.end_kimg={kimg}")


RECIPES = {
    "gan": Recipe(),
    "pacgan2": Recipe(pack=2),
    "pacgan3": Recipe(pack=3),
    "pacgan4": Recipe(pack=4),
    # Relativistic pairs with R1 and R2, as R3GAN has them, and a learning rate that falls to 0: with a constant one points
    # move by more than a mode's width in a step. Narrow modes want a steep discriminator, so the ring's gamma is the smaller,
    # and falls: that thins out what lies between modes. The grid gains nothing from it.
    "stabilised": Recipe(
        overrides=(
            *("objective.loss=relativistic", "optimizer.betas=[0.0,0.99]", "optimizer.lr=3e-4"),
            *("optimizer.schedule.type=cosine", "network.batch_norm=false", "network.init_std=0.07"),
            "network.maxout_pieces=1",
        ),
        of_data={"ring": _penalties(0.02, *_FALLING), "grid": _penalties(0.1)},
    ),
}

PUBLISHED = {
    # Lin et al. 2018, tables 1 and 2, where no other paper is named: modes, high quality in %, reverse KL.
    "ring": {
        "GAN (PacGAN paper)": ("6.3±.5", "98.2", ".45"),
        "ALI": ("6.6±.3", "97.6", ".36"),
        "Unrolled GAN (VEEGAN paper)": ("7.6", "35.6", "–"),
        "VEEGAN": ("8", "52.9", "–"),
        "PacGAN2": ("7.9±.1", "95.6", ".07"),
        "PacGAN4": ("7.8±.1", "95.9", ".07"),
    },
    "grid": {
        "GAN (PacGAN paper)": ("17.3±.8", "94.8", ".70"),
        "ALI": ("24.1±.4", "95.7", ".14"),
        "Unrolled GAN (VEEGAN paper)": ("23.6", "16", "–"),
        "VEEGAN": ("24.6", "40", "–"),
        "PacGAN2": ("23.8±.7", "91.3", ".13"),
        "PacGAN4": ("24.8±.2", "93.6", ".04"),
    },
    "stacked_mnist": {
        "DCGAN (PacGAN paper)": ("78.9±6.5", "–", "4.50"),
        "ALI": ("16", "–", "5.40"),
        "Unrolled GAN (VEEGAN paper)": ("48.7", "–", "4.32"),
        "VEEGAN": ("150", "–", "2.95"),
        "PacGAN2": ("1000±0", "–", ".06"),
        "PacGAN4": ("1000±0", "–", ".07"),
        "R3GAN loss (RpGAN+R1+R2)": ("1000", "–", ".078"),
    },
}


@dataclass(frozen=True)
class Cell:
    """One run."""

    data: str
    recipe: str
    seed: int
    steps: int
    replicas: int = 0
    """Seeds that are trained in this one run, beginning with `seed`; 0: it is a run of one seed, the plain one."""

    @property
    def name(self) -> str:
        """The run's, and its folder's."""
        seeds = f"{self.replicas}seeds" if self.replicas else str(self.seed)
        return f"bench-{self.data}-{self.recipe}-{seeds}{self.short}"

    @property
    def short(self) -> str:
        """What marks a run of fewer steps than the protocol's."""
        return "" if self.steps >= full_steps(self.data) else f"_short{self.steps}"

    @property
    def entry(self) -> str:
        """Under what its figures stand in the results: `ring/gan`, with fewer steps than the protocol's `ring/gan_short20000`."""
        return f"{self.data}/{self.recipe}{self.short}{_BATCHED if self.replicas else ''}"

    @property
    def config(self) -> Path:
        return CONFIGS / f"{self.data}.yaml"

    def command(self, extra: list[str]) -> list[str]:
        start = [sys.executable, "-m", "gantk", "train", "--config", str(self.config), "--name", self.name]
        return [*start, *self.overrides(extra)]

    def overrides(self, extra: list[str]) -> list[str]:
        """What is laid over the config, and of `extra` what goes with it: points are made here, and have no place on the disk."""
        extra = [override for override in extra if self.data == "stacked_mnist" or not override.startswith("data.")]
        pack = RECIPES[self.recipe].pack
        batch = BATCH[self.data] * pack * max(self.replicas, 1)
        kimg = self.steps * batch / 1000
        overrides = RECIPES[self.recipe].laid_over(self.data, kimg)
        if self.replicas:
            overrides = (
                *("plugins=[benchmarks.replicas]", "network.type=replicated_mlp", f"network.replicas={self.replicas}"),
                *(f"optimizer.eps={1e-8 / self.replicas}", *overrides, f"evaluate.every_kimg={2 * kimg}"),
            )
        return [
            *(f"seed={self.seed}", f"train.kimg={kimg}", f"train.batch_size={batch}"),
            *(f"objective.pack={pack}", f"checkpoint.every_kimg={kimg / 20}", f"evaluate.every_kimg={kimg}"),
            *(f"samples.every_kimg={kimg}", f"train.log_every_kimg={kimg / 100}", "collapse.monitor=false"),
            *("tracking.wandb=disabled", "tracking.progress=false", *overrides, *extra),
        ]


def full_steps(data: str) -> int:
    """The protocol's steps: 400 epochs of 1,000 batches; for Stacked MNIST 50 epochs of 2,000."""
    return 100_000 if data == "stacked_mnist" else 400_000


def is_whole(cell: Cell, runs: Path) -> bool:
    try:
        return bool(json.loads((runs / cell.name / "status.json").read_text())["state"] == "completed")
    except (OSError, ValueError, KeyError):
        return False


def changes_of(cell: Cell, runs: Path, extra: list[str]) -> list[str]:
    """Where the settings of a run that is whole are not those that it would have now, as after a change of its recipe."""
    if not is_whole(cell, runs):
        return []
    now = load_config(cell.config, [f"name={cell.name}", *cell.overrides(extra)])
    return differences(load_config(runs / cell.name / "config.yaml"), now)


def results_of(cell: Cell, runs: Path) -> dict[str, dict[str, Any]]:
    """The evaluation at the end of a run that is whole, by seed; of one that is not, nothing."""
    if not is_whole(cell, runs):
        return {}
    if cell.replicas:
        reports = _scored_replicas(runs / cell.name, cell.replicas)
    else:
        reports = [_scored_last(cell, runs / cell.name / "eval")]
    return {str(cell.seed + number): _scores(json.loads(path.read_text())) for number, path in enumerate(reports)}


def _scored_last(cell: Cell, folder: Path) -> Path:
    """The trainer's evaluation at the end of a run, or what `gantk eval` said later of the same samples: its verdict is of a
    newer detector. Other files there are of other checkpoints or numbers of samples."""
    # The trainer's are named after the images seen.
    own = max(folder.glob("[0-9]*.json"))
    samples = json.loads(own.read_text())["protocol"]["n_fake"]
    again = folder / f"step-{cell.steps:08d}-{samples}.json"
    return max((path for path in (own, again) if path.exists()), key=lambda path: path.stat().st_mtime_ns)


def _scored_replicas(folder: Path, replicas: int) -> list[Path]:
    """The evaluation of each replica, made where it is not there yet."""
    from benchmarks.replicas import split
    from gantk.runs import find_checkpoint
    from gantk.scoring import evaluate_checkpoint, write_report

    places = [folder / "replicas" / str(number) for number in range(replicas)]
    if not all(place.is_dir() for place in places):
        split(find_checkpoint(str(folder)).checkpoint, folder / "replicas")
    reports = []
    for checkpoint in places:
        reports.append(checkpoint.with_suffix(".json"))
        if not reports[-1].exists():
            write_report(reports[-1], evaluate_checkpoint(str(checkpoint)).report)
    return reports


def _scores(report: Mapping[str, Any]) -> dict[str, Any]:
    metrics = {name: entry["value"] for name, entry in report["metrics"].items()}
    floors = {
        name: [entry["floor"], entry["floor_low"], entry["floor_high"]]
        for name, entry in report["metrics"].items()
        if entry.get("floor") is not None
    }
    return {
        **metrics,
        "verdict": report["collapse"]["verdict"],
        "reasons": report["collapse"]["reasons"],
        "floors": floors,
    }


def run_all(cells: list[Cell], runs: Path, jobs: int, minutes: float, extra: list[str]) -> None:
    """Runs what is not whole, `jobs` at a time, and asks what is left to save and stop when the minutes are over."""
    end = time.monotonic() + 60 * minutes
    waiting = [cell for cell in cells if not is_whole(cell, runs)]
    running: dict[str, subprocess.Popen[bytes]] = {}
    environment = {**os.environ, "GANTK_RUNS": str(runs), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    while (waiting or running) and time.monotonic() < end:
        while waiting and len(running) < jobs:
            cell = waiting.pop(0)
            with (runs / f"{cell.name}.log").open("ab") as log:
                running[cell.name] = subprocess.Popen(cell.command(extra), env=environment, stdout=log, stderr=log)
        for name, process in list(running.items()):
            if process.poll() is not None:
                del running[name]
                print(f"{name}: exit {process.returncode}", file=sys.stderr)
        time.sleep(0.5)
    for process in running.values():
        process.send_signal(signal.SIGTERM)
    for process in running.values():
        process.wait()


def spread(values: list[float | None], digits: int) -> str:
    """Mean ± standard deviation of those that could be worked out."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):.{digits}f}"
    return f"{mean}±{statistics.stdev(known):.{digits}f}" if len(known) > 1 else mean


def figures_of(cells: list[Cell], runs: Path) -> dict[str, Any]:
    """What the whole ones among the runs gave: `Cell.entry` -> {steps, batched, seeds: {seed: {command, date, scores}}}.

    `batched` is there, and true, where the seeds were trained in one run.
    """
    figures: dict[str, Any] = {}
    made = {"command": records.command(), "date": date.today().isoformat()}
    for cell in cells:
        for seed, result in results_of(cell, runs).items():
            entry = {"steps": cell.steps, **({"batched": True} if cell.replicas else {}), "seeds": {}}
            figures.setdefault(cell.entry, entry)["seeds"][seed] = {**made, **result}
    return figures


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Both calls' figures. Of an entry that both have, the seeds of both; of a seed that both have, the new one's."""
    both = {**old, **new}
    for name in old.keys() & new.keys():
        seeds = {**old[name]["seeds"], **new[name]["seeds"]}
        both[name] = {**new[name], "seeds": {seed: seeds[seed] for seed in sorted(seeds, key=int)}}
    return both


def table(figures: Mapping[str, Any]) -> list[str]:
    """The lines of the table in Markdown: the published rows, ours, and the floors, data by data."""
    lines = [
        "| | seeds | modes | high quality, % | reverse KL | spread of a mode | verdicts |",
        "|---|---|---|---|---|---|---|",
    ]
    for data in dict.fromkeys(name.partition("/")[0] for name in figures):
        most = 1000 if data == "stacked_mnist" else 25 if data == "grid" else 8
        for source, (modes, quality, kl) in PUBLISHED[data].items():
            lines.append(f"| {data}, published: {source} | | {modes} | {quality} | {kl} | – | – |")
        floor: dict[str, list[float]] = {}
        for name, entry in figures.items():
            if name.startswith(f"{data}/"):
                rows = list(entry["seeds"].values())
                lines.append(_line(name, entry))
                floor = rows[0]["floors"]
        ranges = {key: f"{mean:.4g} [{low:.4g}, {high:.4g}]" for key, (mean, low, high) in floor.items()}
        good = floor.get("high_quality")
        percent = f"{100 * good[0]:.2f} [{100 * good[1]:.1f}, {100 * good[2]:.1f}]" if good else "–"
        lines.append(
            f"| {data}, a perfect sampler of {most} modes | | {ranges['modes']} | {percent} | {ranges['reverse_kl']} | "
            f"{ranges.get('mode_spread', '–')} | ok |"
        )
    return lines


def _line(name: str, entry: Mapping[str, Any]) -> str:
    data, _, recipe = name.partition("/")
    steps, rows = entry["steps"], list(entry["seeds"].values())
    recipe = recipe.removesuffix(_BATCHED).removesuffix(str(steps))
    how = f"{steps:,} steps" + (", seeds in one run" if entry.get("batched") else "")
    quality = spread([100 * row["high_quality"] for row in rows], 1) if "high_quality" in rows[0] else "–"
    shrink = spread([row["mode_spread"] for row in rows], 2) if "mode_spread" in rows[0] else "–"
    return (
        f"| **{data}, ours: {recipe}** ({how}) | {len(rows)} | {spread([row['modes'] for row in rows], 1)} | "
        f"{quality} | {spread([row['reverse_kl'] for row in rows], 4)} | {shrink} | "
        f"{', '.join(row['verdict'] for row in rows)} |"
    )


def kept(folder: Path | None) -> dict[str, Any]:
    """The figures of earlier calls."""
    try:
        figures = json.loads(((folder or records.RESULTS) / "mixtures.json").read_text())["figures"]
    except (OSError, ValueError, KeyError):
        return {}
    return {name: entry for name, entry in figures.items() if name != "not_run"}


def cells_of(options: argparse.Namespace) -> list[Cell]:
    """The runs that are asked for. All seeds are one run for small networks alone, which Stacked MNIST's are not."""
    cells = []
    for data in options.data.split(","):
        together = options.batched and data != "stacked_mnist"
        for recipe in options.recipes.split(","):
            if RECIPES[recipe].of_data and data not in RECIPES[recipe].of_data:
                continue
            for seed in range(1 if together else options.seeds):
                steps = options.steps or full_steps(data)
                cells.append(Cell(data, recipe, seed, steps, options.seeds if together else 0))
    return cells


def run_graphed(cells: list[Cell], runs: Path, minutes: float, extra: list[str]) -> None:
    """Runs what is not whole in this process, side by side on its GPU. Raises UserError for what a graph cannot follow."""
    from benchmarks.graphed import train_together

    os.environ["GANTK_RUNS"] = str(runs)
    waiting = [cell for cell in cells if not is_whole(cell, runs)]
    train_together([load_config(c.config, [f"name={c.name}", *c.overrides(extra)]) for c in waiting], minutes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default="ring,grid", help="ring, grid, stacked_mnist (the last wants MNIST, see --set)"
    )
    parser.add_argument("--recipes", default="gan,pacgan2", help=", ".join(RECIPES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="default: the protocol's; others have rows of their own")
    parser.add_argument(
        "--batched",
        action="store_true",
        help="all seeds of a recipe in one run, but of stacked_mnist, whose networks are not small",
    )
    parser.add_argument(
        "--graphed",
        action="store_true",
        help="all runs at once in this process, their steps as CUDA graphs (graphed.py)",
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so many; the same command goes on")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs are kept")
    parser.add_argument("--results", type=Path, help="where the figures go; default: benchmarks/results/")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides, for where MNIST is, say"
    )
    options = parser.parse_args()
    cells = cells_of(options)
    for cell in cells:
        if changes := changes_of(cell, options.runs, options.set):
            parser.error(
                f"{options.runs / cell.name} was trained with other settings ({'; '.join(changes)}): delete it, or name other `--runs`"
            )
    options.runs.mkdir(parents=True, exist_ok=True)
    if options.graphed:
        try:
            run_graphed(cells, options.runs, options.minutes, options.set)
        except UserError as error:
            parser.error(str(error))
    else:
        run_all(cells, options.runs, options.jobs, options.minutes, options.set)
    figures = merged(kept(options.results), figures_of(cells, options.runs))
    print("\n".join(table(figures)))
    missing = [cell.name for cell in cells if not is_whole(cell, options.runs)]
    if missing:
        print(f"not whole yet: {', '.join(missing)}", file=sys.stderr)
    records.write("mixtures", {**figures, "not_run": missing}, options.results)


if __name__ == "__main__":
    main()
