"""`gantk doctor`: what this machine has, what a config needs, and what would mend whatever is missing."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import math
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gantk.errors import ConfigError, DataError, UserError, WeightsError

if TYPE_CHECKING:
    from gantk.config import Config
    from gantk.config.schema import DataConfig
    from gantk.data import DataReport
    from gantk.sampling import ImageShape

GIB, MIB = 1 << 30, 1 << 20
LITTLE_DISK = 2 * GIB
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Examination:
    """What `gantk doctor` found.

    `exit_code`: 0 where the config could run (and always without a config), else the exit code of the first thing that
    would stop it (2 config, 3 data).
    """

    text: str
    exit_code: int


@dataclass
class _Page:
    """The lines so far, and the first thing that would stop a run."""

    lines: list[str] = field(default_factory=list)
    stop: tuple[int, str] | None = None

    def title(self, text: str) -> None:
        self.lines += ([""] if self.lines else []) + [text]

    def say(self, mark: Literal["ok", "warning", "missing"], what: str, text: str, fix: str = "") -> None:
        self.lines.append(f"  {mark:7}  {what:17}  {text}")
        if fix:
            self.lines.append(f"{'':30}-> {fix}")

    def detail(self, text: str) -> None:
        self.lines += [f"{'':30}{line}" for line in text.splitlines()]

    def stops(self, what: str, error: UserError) -> None:
        """`error` would end a run before its first step; its sentence names the fix."""
        self.say("missing", what, str(error))
        self.stop = self.stop or (error.exit_code, what)


def examine(config: Config | None) -> Examination:
    """Look at this machine and, where there is a config, at everything that a run of it needs.

    Every image of the config's data is read. Nothing is downloaded or written, and the network is asked one thing at
    most: whether a dataset that is not on this disk is on the hub (5 s).
    """
    page = _Page()
    page.title("This machine")
    if _packages(page, config):
        _hardware(page)
        _processes(page, config)
        _disk(page)
        page.title("Optional")
        _inception(page, config)
        _wandb(page, config)
        if config is not None:
            page.title(f"Run {config.name}")
            _run(page, config)
            page.title("Data")
            sources = {"data": config.data, **{f"extra_data.{k}": d for k, d in config.extra_data.items()}}
            shapes = [_data(page, name, data, config) for name, data in sources.items()]
            if shapes[0] is not None:
                page.title("Networks")
                _networks(page, config, shapes[0])
    if config is not None:
        page.title(_verdict(page, config))
    return Examination("\n".join(page.lines), page.stop[0] if config is not None and page.stop else 0)


def _verdict(page: _Page, config: Config) -> str:
    if page.stop is None:
        return f"Run {config.name} can be trained here."
    return f"Run {config.name} would stop with exit code {page.stop[0]}: see `{page.stop[1]}` above."


# The machine


def _packages(page: _Page, config: Config | None) -> bool:
    """Whether enough is installed to go on."""
    from packaging.requirements import Requirement

    page.say("ok", "python", f"{platform.python_version()} at {sys.executable}")
    try:
        needed = [Requirement(text) for text in importlib.metadata.requires("gantk") or ()]
        installed = importlib.metadata.version("gantk")
    except importlib.metadata.PackageNotFoundError:
        page.say("warning", "gantk", "runs from its source folder and is not installed", "pip install -e .")
        return True
    found, wanting = [f"gantk {installed}"], []
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wanting.append(requirement)
            continue
        found.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            wanting.append(requirement)
    page.say("ok", "packages", ", ".join(found[:7]))
    for start in range(7, len(found), 7):
        page.detail(", ".join(found[start : start + 7]))
    if wanting:
        names = " ".join(f"'{requirement.name}{requirement.specifier}'" for requirement in wanting)
        page.stops("packages", ConfigError(f"not installed, or too old: {names}; run `pip install {names}`"))
    return not wanting


def _hardware(page: _Page) -> None:
    import psutil
    import torch

    from gantk.data.cache import processors
    from gantk.records import processor_name
    from gantk.runtime import has_bf16

    memory = psutil.virtual_memory()
    page.say("ok", "processor", f"{processor_name()}, {processors()} of {os.cpu_count()} CPUs usable")
    page.say("ok", "threads", f"{torch.get_num_threads()} in each process (train.threads sets another number)")
    little = memory.available < 2 * GIB
    page.say("warning" if little else "ok", "memory", f"{_size(memory.available)} free of {_size(memory.total)}")
    kinds = []
    if torch.cuda.is_available():
        kinds.append("cuda")
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            page.say("ok", f"gpu {index}", f"{torch.cuda.get_device_name(index)}, {_size(free)} free of {_size(total)}")
    elif torch.backends.mps.is_available():
        kinds.append("mps")
        page.say("ok", "gpu", "Apple's (mps)")
    elif shutil.which("nvidia-smi") and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        page.say(
            "warning",
            "gpu",
            f"an NVIDIA driver is installed, and PyTorch {torch.__version__} sees no GPU",
            "see that `nvidia-smi` lists one, and install a PyTorch that is built for its CUDA version",
        )
    else:
        page.say("warning", "gpu", "none, so training runs on the CPU: small images, small networks")
    for kind in [*kinds, "cpu"]:
        chosen = "bf16" if has_bf16(kind) else "fp32, for the hardware has no bf16"
        page.say("ok", "precision", f"train.precision=auto means {chosen} on {kind}")


def _processes(page: _Page, config: Config | None) -> None:
    """How many processes each way of launching would start here."""
    from gantk.runtime import processes_by_default

    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched > 1:
        page.say("ok", "processes", f"{launched}, by the launcher of this command")
    else:
        count, why = processes_by_default()
        page.say(
            "ok", "processes", f"`gantk train` starts 1, `accelerate launch gantk/train.py` without options {count} ({why})"
        )
    wanted = config.train.world_size if config is not None else None
    if wanted is not None and wanted != launched:
        page.say("warning", "train.world_size", f"this run wants {wanted} processes", f"launch it with {_launch(wanted)}")


def _launch(processes: int) -> str:
    import torch

    if processes == 1:
        return "`gantk train --config FILE`"
    if torch.cuda.is_available():
        return f"`accelerate launch --multi_gpu --num_processes {processes} gantk/train.py --config FILE`"
    return f"`ACCELERATE_USE_CPU=true torchrun --nproc_per_node {processes} gantk/train.py --config FILE`"


def _disk(page: _Page) -> None:
    from gantk_eval import cache_folder

    from gantk.runs import runs_folder

    for what, folder, variable in (("runs", runs_folder(), "GANTK_RUNS"), ("cache", cache_folder(), "GANTK_CACHE")):
        there = _existing(folder)
        free = shutil.disk_usage(there).free
        fix = f"set ${variable} to a folder that you may write to, with some gigabytes free"
        if not os.access(there, os.W_OK | os.X_OK):
            page.stops(f"disk for {what}", ConfigError(f"{folder} cannot be written: {fix}"))
        elif free < LITTLE_DISK:
            page.say("warning", f"disk for {what}", f"{_size(free)} free at {folder}", fix)
        else:
            page.say("ok", f"disk for {what}", f"{_size(free)} free at {folder}")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _size(count: float) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / MIB:,.1f} MiB"


# What a run can do without


def _inception(page: _Page, config: Config | None) -> None:
    from gantk_eval import cache_folder
    from gantk_eval.extractors.inception import SHA256_PREFIX, URL, WEIGHTS_FILE, find_weights

    try:
        path, custom = find_weights(download=False)
    except WeightsError as error:
        folder = os.environ.get("GANTK_WEIGHTS") or str(cache_folder() / "weights")
        damaged = WEIGHTS_FILE not in str(error) or SHA256_PREFIX not in str(error) or "published" in str(error)
        page.say(
            "missing",
            "Inception weights",
            str(error)
            if damaged
            else f"{WEIGHTS_FILE} (sha256 begins with {SHA256_PREFIX}): FID, IS and KID need it; without it the "
            "weights-free tier is used",
            f"mkdir -p {folder} && curl -L -o {folder}/{WEIGHTS_FILE} {URL}",
        )
        named = [name for name in (config.evaluate.metrics or ()) if name in ("fid", "is", "kid")] if config else []
        if named:
            page.say(
                "warning",
                "evaluate.metrics",
                f"names {', '.join(named)}: an evaluation stops with exit code 3 unless the weights can be downloaded",
                "fetch them as above, or take the key out",
            )
        return
    page.say("ok", "Inception weights", f"{path}{' (your own: scores are called inception-custom)' if custom else ''}")


def _wandb(page: _Page, config: Config | None) -> None:
    from gantk.tracking.wandb_run import has_key, mode_of_environment

    mode = config.tracking.wandb if config is not None else "auto"
    if mode == "auto":
        mode = mode_of_environment() or "auto"
    if mode in ("offline", "disabled"):
        page.say("ok", "W&B", f"{mode}, as asked; metrics.jsonl and PNG grids are written in any case")
    elif has_key():
        page.say("ok", "W&B", "there is an API key: runs are logged online")
    else:
        page.say(
            "missing",
            "W&B key",
            "without it only metrics.jsonl and PNG grids are written",
            "wandb login, or export WANDB_API_KEY=...",
        )


# The config


def _run(page: _Page, config: Config) -> None:
    """What the trainer checks before it opens the data."""
    import torch

    from gantk.records import is_running
    from gantk.runs import newest_whole
    from gantk.runtime import choose_device, resolve_precision

    train = config.train
    device = choose_device(train.device).type
    try:
        precision = resolve_precision(train.precision, device)
        page.say("ok", "precision", f"{'fp32' if precision == 'no' else precision} on {device}")
    except ConfigError as error:
        page.stops("precision", error)
    if train.sync_batchnorm and device != "cuda":
        page.stops("train.sync_batchnorm", ConfigError("it needs GPUs, and there are none: set it to false"))
    if config.tracking.tensorboard and not importlib.util.find_spec("tensorboard"):
        error = ConfigError("TensorBoard is not installed: `pip install tensorboard`, or set it to false")
        page.stops("tracking.tensorboard", error)
    gpus = torch.cuda.device_count() if device == "cuda" else 1
    share = (train.world_size or gpus) * train.accumulation
    if train.batch_size % share:
        page.say(
            "warning",
            "train.batch_size",
            f"{train.batch_size} does not divide by {train.world_size or gpus} processes × train.accumulation={train.accumulation}",
            f"train.batch_size={math.ceil(train.batch_size / share) * share}",
        )
    if is_running(config.run_folder):
        error = ConfigError(f"{config.run_folder} is being trained now: wait, stop it, or give another `--name`")
        return page.stops("run folder", error)
    newest, problems = newest_whole(config.run_folder)
    for problem in problems:
        page.say("warning", "checkpoint", problem)
    there = f"is there, and training goes on from {newest.kimg:g} kimg" if newest else "starts at 0 kimg"
    return page.say("ok", "run folder", f"{config.run_folder} {there}, to {train.kimg:g}")


@contextlib.contextmanager
def _off_the_network(wanted: bool) -> Iterator[None]:
    """A look at a dataset must not download it."""
    before = os.environ.get("GANTK_OFFLINE")
    if wanted:
        os.environ["GANTK_OFFLINE"] = "1"
    try:
        yield
    finally:
        if wanted:
            os.environ.pop("GANTK_OFFLINE")
            if before is not None:
                os.environ["GANTK_OFFLINE"] = before


def _data(page: _Page, name: str, data: DataConfig, config: Config) -> ImageShape | None:
    """The report on one source, and the shape of its images where that is known."""
    from gantk.data import inspect
    from gantk.data.cache import entry_folder
    from gantk.data.sources import open_sources
    from gantk.data.transform import Transform

    hub = data.source == "hub"
    with _off_the_network(hub):
        try:
            train, _ = open_sources(data)
            decoded = entry_folder(train, Transform(data.resolution, data.channels))
            cached = data.storage != "stream" and (decoded / "meta.json").is_file()
        except DataError as error:
            return _not_on_this_disk(page, name, data, error)
        try:
            report = inspect(data, progress=sys.stderr.isatty())
        except DataError as error:
            if not (hub and cached):
                return _not_on_this_disk(page, name, data, error)
            page.say("ok", name, f"{train.description} is decoded in {decoded}; the pictures themselves are not here")
            return None
    shape = _shape(data, report)
    page.say("ok", name, f"{report.train.count:,} images, at {data.resolution}×{data.resolution}×{shape.channels}")
    page.detail(report.table())
    if report.corrupt_count:
        what = (report.train.corrupt + (report.heldout.corrupt if report.heldout else []))[0]
        error = DataError(f"{report.corrupt_count} damaged: {what}; replace or remove what is listed above")
        page.stops("damaged images", error)
    unknown = set(report.heldout.labels) - set(report.train.labels) if report.heldout and report.train.labels else set()
    if unknown:
        names = ", ".join(sorted(unknown)[:5])
        error = DataError(f"held-out classes that the training images lack: {names}; or set data.use_labels=false")
        page.stops("held-out images", error)
    _enough_images(page, data, report, config.train.batch_size)
    _room(page, data, report, shape.channels, decoded if cached else None)
    return shape


def _not_on_this_disk(page: _Page, name: str, data: DataConfig, error: DataError) -> None:
    """Missing data stops a run, unless it is on the hub and the hub answers."""
    from gantk_eval.paths import offline

    if data.source == "hub" and "hub cannot be reached" in str(error) and not offline():
        from gantk.data.sources.hub import Hub

        try:
            commit = Hub(data).commit_on_hub()
        except DataError as refused:
            return page.stops(name, refused)
        if commit is not None:
            where = f"{data.path} at {commit[:12]} is on the hub and not on this disk; training downloads it"
            return page.say("warning", name, where, "gantk prepare --config FILE")
    return page.stops(name, error)


def _shape(data: DataConfig, report: DataReport) -> ImageShape:
    from gantk_eval.images import is_grey_mode

    from gantk.sampling import ImageShape

    grey = all(is_grey_mode(mode) for mode in report.train.modes)
    labels = report.train.labels
    total = sum(labels.values())
    return ImageShape(
        channels=data.channels or (1 if grey else 3),
        resolution=data.resolution,
        class_names=tuple(labels) or None,
        class_shares=tuple(count / total for count in labels.values()) if total else None,
    )


def _enough_images(page: _Page, data: DataConfig, report: DataReport, batch_size: int) -> None:
    count = report.train.count
    if report.heldout is None:
        count -= max(1, round(data.heldout_fraction * count))
    count = min(count, data.limit or count)
    if count < batch_size:
        sentence = f"{count} training images are fewer than train.batch_size={batch_size}: lower it, or add images"
        page.stops("train.batch_size", DataError(sentence))
    else:
        page.say("ok", "training images", f"{count:,}, at {batch_size} in a step")


def _room(page: _Page, data: DataConfig, report: DataReport, channels: int, cached: Path | None) -> None:
    """Whether the cache has room for the decoded images."""
    from gantk_eval import cache_folder

    from gantk.data.cache import SPARE

    if data.storage == "stream":
        return page.say("ok", "disk for images", "none is needed (data.storage=stream)")
    if cached is not None:
        return page.say("ok", "disk for images", f"decoded already, in {cached}")
    count = report.train.count + (report.heldout.count if report.heldout else 0)
    need = count * data.resolution**2 * channels
    free = shutil.disk_usage(_existing(cache_folder())).free
    sentence = f"the decoded images take {_size(need)} in {cache_folder()}, and {_size(free)} are free"
    fix = "make room, set $GANTK_CACHE to a larger disk, or set data.storage=stream"
    if need + SPARE <= free:
        return page.say("ok", "disk for images", sentence)
    if data.storage == "auto":
        return page.say("warning", "disk for images", f"{sentence}: they are decoded each time they are seen", fix)
    return page.stops("disk for images", DataError(f"{sentence}: {fix}"))


def _networks(page: _Page, config: Config, shape: ImageShape) -> None:
    import torch

    from gantk.sampling import build_objective

    try:
        with torch.random.fork_rng(devices=[]):
            objective: Any = build_objective(config, shape)
    except UserError as error:
        return page.stops("network", error)
    sizes = {name: sum(p.numel() for p in network.parameters()) for name, network in objective.networks.items()}
    for name, size in sizes.items():
        page.say("ok", name, f"{size / 1e6:,.2f} million parameters")
    # Weights and Adam's two moments of every network, and the moving averages.
    one = FLOAT_BYTES * (3 * sum(sizes.values()) + sum(sizes[name] for name in objective.averaged))
    kept = config.checkpoint.keep + 1
    free = shutil.disk_usage(_existing(config.run_folder)).free
    sentence = f"about {_size(one)} each, up to {kept} are kept; {_size(free)} are free"
    # One more is there while it is written.
    if one * (kept + 1) > free:
        return page.say("warning", "checkpoints", sentence, "make room, lower checkpoint.keep, or set $GANTK_RUNS")
    return page.say("ok", "checkpoints", sentence)
