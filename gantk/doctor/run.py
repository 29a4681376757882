"""What a config needs: its settings, data and networks, checked in the order in which the trainer meets them."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantk_eval import terminal

from gantk.data.damaged import Tolerance
from gantk.doctor.page import Page, existing, readable
from gantk.errors import ConfigError, DataError, UserError

if TYPE_CHECKING:
    from gantk.config import Config
    from gantk.config.schema import DataConfig
    from gantk.data import DataReport
    from gantk.sampling import ImageShape

FLOAT_BYTES = 4


def settings(page: Page, config: Config) -> None:
    """What the trainer checks before it opens the data."""
    import torch

    from gantk.runs import newest_whole
    from gantk.runtime import choose_device, resolve_precision
    from gantk.training.run_lock import RunLock

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
        fault = ConfigError("TensorBoard is not installed: `pip install tensorboard`, or set it to false")
        page.stops("tracking.tensorboard", fault)
    gpus = torch.cuda.device_count() if device == "cuda" else 1
    share = (train.world_size or gpus) * train.accumulation
    if train.batch_size % share:
        page.say(
            "warning",
            "train.batch_size",
            f"{train.batch_size} does not divide by {train.world_size or gpus} processes × train.accumulation={train.accumulation}",
            f"train.batch_size={math.ceil(train.batch_size / share) * share}",
        )
    if held := RunLock(config.run_folder).look():
        return page.stops("run folder", ConfigError(held))
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


def data_of(page: Page, name: str, data: DataConfig, config: Config) -> ImageShape | None:
    """The report on one source, and the shape of its images where that is known."""
    from gantk.data import inspect
    from gantk.data.cache import entry_folder
    from gantk.data.sources import open_sources
    from gantk.data.transform import Transform

    if data.source in ("mixture", "stacked_mnist"):
        return _made(page, name, data, config)
    report: DataReport | None = None
    decoded, cached = Path(), False
    with _off_the_network(data.source == "hub"):
        try:
            train, _ = open_sources(data)
            decoded = entry_folder(train, Transform(data.resolution, data.channels))
            cached = data.storage != "stream" and (decoded / "meta.json").is_file()
            report = inspect(data, progress=terminal.is_terminal() and config.tracking.progress)
        except DataError as error:
            problem = error
    if report is None:
        if data.source == "hub" and cached:
            page.say("ok", name, f"{train.description} is decoded in {decoded}; the pictures themselves are not here")
        else:
            _not_on_this_disk(page, name, data, problem)
        return None
    shape = _shape(data, report)
    page.say("ok", name, f"{report.train.count:,} images, at {data.resolution}×{data.resolution}×{shape.channels}")
    page.detail(report.table())
    if report.corrupt_count:
        _damaged(page, data, report)
    if report.unknown_classes is not None:
        page.stops("held-out images", DataError(report.unknown_classes))
    _enough_images(page, data, report, config.train.batch_size)
    _room(page, data, report, shape.channels, decoded if cached else None)
    return shape


def _made(page: Page, name: str, data: DataConfig, config: Config) -> ImageShape | None:
    """Samples that are made here: all there is to look at is what they are made of."""
    from gantk.data import open_dataset
    from gantk.data.made import digits_config
    from gantk.sampling import ImageShape

    if data.source == "stacked_mnist":
        try:
            digits = digits_config(data)
        except DataError as error:
            page.stops(name, error)
            return None
        if data_of(page, f"{name}: the digits", digits, config) is None:
            return None
    with _off_the_network(True):
        try:
            dataset = open_dataset(data, seed=config.seed)
        except DataError as error:
            page.stops(name, error)
            return None
    page.say("ok", name, dataset.description)
    return ImageShape.of(dataset)


def _not_on_this_disk(page: Page, name: str, data: DataConfig, error: DataError) -> None:
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


def _damaged(page: Page, data: DataConfig, report: DataReport) -> None:
    """What is damaged, and whether the config lets so much be left out."""
    tolerance = Tolerance(data.on_bad_image == "skip", data.max_bad_images)
    for split in filter(None, (report.train, report.heldout)):
        most = tolerance.most(split.count)
        if split.corrupt_count > most:
            remedy = "replace or remove what is listed above, or set data.on_bad_image=skip"
            if tolerance.skip:
                remedy = f"more than {most} of the {split.count:,} pictures: replace or remove them, or raise data.max_bad_images"
            page.stops("damaged images", DataError(f"{split.corrupt_count} damaged: {split.corrupt[0]}; {remedy}"))
            return
    page.say(
        "warning", "damaged images", f"{report.corrupt_count} are left out", "replace or remove what is listed above"
    )


def _enough_images(page: Page, data: DataConfig, report: DataReport, batch_size: int) -> None:
    count = report.train.count
    if report.heldout is None:
        count -= max(1, round(data.heldout_fraction * count))
    count = min(count, data.limit or count)
    if count < batch_size:
        sentence = f"{count} training images are fewer than train.batch_size={batch_size}: lower it, or add images"
        page.stops("train.batch_size", DataError(sentence))
    else:
        page.say("ok", "training images", f"{count:,}, at {batch_size} in a step")


def _room(page: Page, data: DataConfig, report: DataReport, channels: int, cached: Path | None) -> None:
    """Whether the cache has room for the decoded images."""
    from gantk_eval import cache_folder

    from gantk.data.cache import SPARE

    if data.storage == "stream":
        return page.say("ok", "disk for images", "none is needed (data.storage=stream)")
    if cached is not None:
        return page.say("ok", "disk for images", f"decoded already, in {cached}")
    count = report.train.count + (report.heldout.count if report.heldout else 0)
    need = count * data.resolution**2 * channels
    free = shutil.disk_usage(existing(cache_folder())).free
    sentence = f"the decoded images take {readable(need)} in {cache_folder()}, and {readable(free)} are free"
    fix = "make room, set $GANTK_CACHE to a larger disk, or set data.storage=stream"
    if need + SPARE <= free:
        return page.say("ok", "disk for images", sentence)
    if data.storage == "auto":
        return page.say("warning", "disk for images", f"{sentence}: they are decoded each time they are seen", fix)
    return page.stops("disk for images", DataError(f"{sentence}: {fix}"))


def networks(page: Page, config: Config, shape: ImageShape) -> None:
    """Builds the networks, and says how large they and their checkpoints are."""
    import torch

    from gantk.sampling import build_objective

    try:
        with torch.random.fork_rng(devices=[]):
            objective: Any = build_objective(config, shape)
    except UserError as error:
        return page.stops("network", error)
    sizes = {name: sum(p.numel() for p in network.parameters()) for name, network in objective.networks.items()}
    for name, size in sizes.items():
        page.say("ok", name, f"{size:,} parameters")
    # Weights and Adam's two moments of every network, and the moving averages.
    one = FLOAT_BYTES * (3 * sum(sizes.values()) + sum(sizes[name] for name in objective.averaged))
    kept = config.checkpoint.keep + 1
    free = shutil.disk_usage(existing(config.run_folder)).free
    sentence = f"about {readable(one)} each, up to {kept} are kept; {readable(free)} are free"
    # One more is there while it is written.
    if one * (kept + 1) > free:
        return page.say("warning", "checkpoints", sentence, "make room, lower checkpoint.keep, or set $GANTK_RUNS")
    return page.say("ok", "checkpoints", sentence)
