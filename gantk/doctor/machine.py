"""What this machine has: packages, hardware, processes, disks, and what a run can do without."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from typing import TYPE_CHECKING

from gantk.doctor.page import GIB, Page, existing, readable
from gantk.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from gantk.config import Config

LITTLE = 2 * GIB  # of memory or disk, below which there is a warning


def packages(page: Page, config: Config | None) -> bool:
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


def hardware(page: Page) -> None:
    import psutil
    import torch

    from gantk.data.cache import processors
    from gantk.records import processor_name
    from gantk.runtime import has_bf16

    memory = psutil.virtual_memory()
    page.say("ok", "processor", f"{processor_name()}, {processors()} of {os.cpu_count()} CPUs usable")
    page.say("ok", "threads", f"{torch.get_num_threads()} in each process (train.threads sets another number)")
    little = memory.available < LITTLE
    page.say("warning" if little else "ok", "memory", f"{readable(memory.available)} free of {readable(memory.total)}")
    kinds = []
    if torch.cuda.is_available():
        kinds.append("cuda")
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            page.say(
                "ok", f"gpu {index}", f"{torch.cuda.get_device_name(index)}, {readable(free)} free of {readable(total)}"
            )
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


def processes(page: Page, config: Config | None) -> None:
    """How many processes each way of launching would start here."""
    from gantk.runtime import processes_by_default

    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched > 1:
        page.say("ok", "processes", f"{launched}, by the launcher of this command")
    else:
        count, why = processes_by_default()
        page.say(
            "ok",
            "processes",
            f"`gantk train` starts 1, `accelerate launch gantk/train.py` without options {count} ({why})",
        )
    wanted = config.train.world_size if config is not None else None
    if config is not None and wanted is not None and wanted != launched:
        how = f"launch it with {_launch(wanted, config.train.device == 'cpu')}"
        page.say("warning", "train.world_size", f"this run wants {wanted} processes", how)


def _launch(processes: int, cpu: bool) -> str:
    import torch

    if processes == 1:
        return "`gantk train --config FILE`"
    if torch.cuda.is_available() and not cpu:
        return f"`accelerate launch --multi_gpu --num_processes {processes} gantk/train.py --config FILE`"
    return f"`ACCELERATE_USE_CPU=true torchrun --nproc_per_node {processes} gantk/train.py --config FILE`"


def disk(page: Page) -> None:
    from gantk_eval import cache_folder

    from gantk.runs import runs_folder

    for what, folder, variable in (("runs", runs_folder(), "GANTK_RUNS"), ("cache", cache_folder(), "GANTK_CACHE")):
        there = existing(folder)
        free = shutil.disk_usage(there).free
        fix = f"set ${variable} to a folder that you may write to, with some gigabytes free"
        if not os.access(there, os.W_OK | os.X_OK):
            page.stops(f"disk for {what}", ConfigError(f"{folder} cannot be written: {fix}"))
        elif free < LITTLE:
            page.say("warning", f"disk for {what}", f"{readable(free)} free at {folder}", fix)
        else:
            page.say("ok", f"disk for {what}", f"{readable(free)} free at {folder}")


def inception(page: Page, config: Config | None) -> None:
    """The weights file of FID, IS and KID: found by its hash, and not downloaded."""
    from gantk_eval import cache_folder
    from gantk_eval.extractors.inception import URL, WEIGHTS_FILE, find_weights

    try:
        path, custom = find_weights(download=False)
    except WeightsError as error:
        folder = os.environ.get("GANTK_WEIGHTS") or str(cache_folder() / "weights")
        page.say(
            "missing",
            "Inception weights",
            f"{error}; without it `gantk eval` uses the weights-free tier",
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


def wandb_key(page: Page, config: Config | None) -> None:
    """Whether W&B would be logged to."""
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
