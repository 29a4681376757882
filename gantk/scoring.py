"""From a sampler and a dataset to `gantk_eval`, which knows nothing of either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gantk_eval import Evaluator, Report, distributed
from gantk_eval.extractors.choice import NAMES, choose_extractor
from gantk_eval.extractors.inception import find_weights
from gantk_eval.extractors.own_module import name_of_file
from gantk_eval.files import is_parquet
from gantk_eval.images import GeneratedImages, ImageSet, open_images
from gantk_eval.known_modes import GeneratedPoints, KnownModesEvaluator
from gantk_eval.metrics import GENERIC, KNOWN_MODES, METRICS, check_names, find_metric, metrics_of
from gantk_eval.reference import holds_images_too, holds_statistics, read_reference
from gantk_eval.reference_scores import allowed_by_statistics, evaluate_against_statistics
from gantk_eval.verify import Verification, verify

from gantk import records
from gantk.config import load_config
from gantk.data import Dataset, open_datasets
from gantk.data.places import found_again
from gantk.errors import ConfigError, DataError
from gantk.evaluations import describe_now, describe_run
from gantk.runs import find_checkpoint
from gantk.runtime import connect
from gantk.sampling import Sampler, load_sampler
from gantk.tracking import log_evaluation


@dataclass(frozen=True)
class Reading:
    """How sets of images are read: see `gantk_eval.open_images`. The columns are those of all sets that are parquet."""

    skip_unreadable: bool = False
    image_column: str | None = None
    label_column: str | None = None


class Scores(Protocol):
    """`gantk_eval.Evaluator`, or what counts known modes."""

    def evaluate(self, fake: Any) -> Report:
        """Scores, floors and verdict; all processes call it together."""


def generated_images(
    sampler: Sampler,
    count: int,
    identity: str,
    before_each: Callable[[], None] = lambda: None,
    varied: bool = True,
) -> GeneratedImages | GeneratedPoints:
    """Samples 0 … count−1 as a set of images, or of points where that is what they are.

    Args:
        sampler: draws them.
        count: how many.
        identity: what tells this model from others, for example a checkpoint's manifest.
        before_each: called before each chunk; what it raises ends the evaluation, on all processes.
        varied: whether its samples have ever been varied, as far as is known.
    """
    if sampler.shape.extent is not None:

        def points(indices: np.ndarray) -> np.ndarray:
            before_each()
            return sampler.points(indices)

        return GeneratedPoints(count, points, identity=f"{identity}:{sampler.seed}")
    shape = (sampler.shape.resolution, sampler.shape.resolution, sampler.shape.channels)
    labels = sampler.labels(np.arange(count))

    def generate(indices: np.ndarray) -> np.ndarray:
        before_each()
        return sampler.images(np.asarray(indices))

    return GeneratedImages(
        count=count,
        generate=generate,
        shape=shape,
        labels=labels,
        class_names=None if labels is None else sampler.shape.class_names,
        identity=f"{identity}:{sampler.seed}",
        generator=sampler,
        varied=varied,
    )


EVALUATION_SEED = 0
"""Not the run's: the classifier that it makes is the yardstick, and runs of other seeds are measured by the same one."""


def build_evaluator(dataset: Dataset, *, device: torch.device, batch_size: int, **options: Any) -> Scores:
    """The evaluator of a dataset: its training images are the reference, its held-out images the floor and the null.

    Where the modes are known, what counts them: then the null is known too.
    """
    if dataset.modes is not None:
        if options.pop("kid_subset_size", None) is not None:
            raise ConfigError(
                "`--kid-subset-size` goes with KID, which is not computed where the modes are known: leave it out"
            )
        if not options.pop("collapse", True):
            raise ConfigError("`--no-verdict` saves nothing where the modes are known: leave it out")
        for name, default in (("extractor", None), ("precision", "fp32")):
            if options.pop(name, default) != default:
                raise ConfigError(
                    f"`--{name}` goes with features of images, which are not computed where the modes are known: leave it out"
                )
        return dataset.modes.evaluator(device=device, seed=EVALUATION_SEED, batch_size=batch_size, **options)
    return Evaluator(
        dataset.train, dataset.heldout, device=device, seed=EVALUATION_SEED, batch_size=batch_size, **options
    )


def check_best_by(best_by: str | None, metrics: tuple[str, ...] | None, evaluator: Scores) -> None:
    """Raises `ConfigError` for a metric that there is not, or that is not computed."""
    known = evaluator.metrics if isinstance(evaluator, KnownModesEvaluator) else metrics or (*METRICS, *GENERIC)
    if best_by is not None and best_by not in known:
        raise ConfigError(f"`evaluate.best_by: {best_by}` is not among the metrics: choose from {', '.join(known)}")


def best_value(report: Report, best_by: str | None) -> tuple[str, float] | None:
    """The metric that ranks checkpoints and its value: `best_by`, or the Fréchet distance of the tier in use, or where the
    modes are known the reverse KL."""
    metrics = report.to_dict()["metrics"]
    distances = [name for name in metrics if name.startswith("fd_") and not name.endswith("-spatial")]
    names = [*(name for name in ("fid", "reverse_kl") if name in metrics), *distances]
    if best_by:  # a generic name (`precision`) stands in the report with its features (`precision_classifier`)
        names = [best_by, *(name for name in metrics if best_by in GENERIC and name.startswith(f"{best_by}_"))]
        names += [name for name in metrics if _is_of_other_weights(best_by, name)]
    for name in names:
        if name in metrics and metrics[name]["value"] is not None:
            return name, float(metrics[name]["value"])
    return None


def _is_of_other_weights(metric: str, name: str) -> bool:
    """Whether a score `name` is what `metric` is called under Inception weights that are not the published ones."""
    known, found = METRICS.get(metric), find_metric(name)
    if known is None or found is None or not known.extractor.startswith("inception"):
        return False
    spatial = known.extractor.endswith("spatial")
    return (
        known.kind == found.kind and found.extractor.startswith("inception-") and name.endswith("-spatial") == spatial
    )


def is_better(score: tuple[str, float], best: tuple[str, float] | None) -> bool:
    """Whether `score` beats `best`: lower distances, higher Inception Scores and accuracies."""
    if best is None or score[0] != best[0]:
        return True
    metric = find_metric(score[0])
    higher_is_better = metric is not None and metric.higher_is_better
    return score[1] > best[1] if higher_is_better else score[1] < best[1]


@dataclass(frozen=True)
class Outcome:
    """What `gantk eval` has to say."""

    report: Report
    notes: list[str]
    """Lines for people: what was scored, and where the result is."""


def evaluate_checkpoint(
    spec: str, *, samples: int | None = None, seed: int | None = None, device: str = "auto", **options: Any
) -> Outcome:
    """Score a run, checkpoint or exported generator against its own data, on all processes that there are.

    The result is also written to the run's `eval/`, and to the run's trackers.
    """
    place, is_main = connect(device)
    found = find_checkpoint(spec)
    sampler, config = load_sampler(found.checkpoint, place, seed)
    if found.run is not None:
        config = found_again(config, homes_of(found.run))
    dataset = open_datasets(config, device=place, progress=is_main, names=[""])[""]
    notes = [f"scored {found.sentence}"]
    if not dataset.is_that_of(found.checkpoint.state):
        notes.append("warning: the images are not those that the model was trained on")
    evaluator = build_evaluator(
        dataset,
        device=place,
        batch_size=config.evaluate.batch_size,
        progress=is_main and config.tracking.progress,
        **options,
    )
    count = samples or config.evaluate.samples
    state = found.checkpoint.state
    step, images = int(state["step"]), int(state["images"])
    varied = bool(state.get("monitor", {}).get("varied", True))
    report = evaluator.evaluate(generated_images(sampler, count, f"{config.name}:{step}", varied=varied))
    told = describe_run(config.name, step, images, seed=sampler.seed, checkpoint=found.checkpoint.folder)
    report = replace(report, run=told)
    if is_main and found.run is not None:
        path = found.run / "eval" / f"{found.checkpoint.folder.name}-{count}.json"
        picture = write_report(path, report)
        log_evaluation(found.run, found.checkpoint.kimg, report.to_dict(), picture)
        if picture is not None:
            notes.append(f"the verdict's picture: {picture}")
        notes.append(f"result: {path}; samples drawn in training: {found.run / 'samples'}")
    return Outcome(report, notes)


def homes_of(run: Path) -> list[Path]:
    """The folder that a run was started in, as far as its record says, and the one that holds the folder of runs now."""
    started = (records.read_json(run / "environment.json") or {}).get("folder")
    return [*([Path(started)] if isinstance(started, str) else []), run.absolute().parent.parent]


def write_report(path: Path, report: Report) -> Path | None:
    """Writes an evaluation to `path` (.json) and the verdict's picture beside it (.png); its path, where there is one."""
    records.write_json(path, report.to_dict())
    if report.picture is None:
        return None
    picture = path.with_suffix(".png")
    records.write_atomic(picture, report.picture)
    return picture


def write_picture(path: Path, report: Report) -> None:
    """Writes the picture of the collapse verdict to `path`.

    Raises:
        DataError: where there is none, as without held-out images, or it cannot be written.
    """
    if report.picture is None:
        # Where nothing was tested, the one reason says why; else the reasons are about the samples.
        why = "none was drawn" if report.collapse["tests"] else report.collapse["reasons"][0]
        raise DataError(f"there is no picture to write to {path}: {why}")
    try:
        records.write_atomic(path, report.picture)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; choose another place") from error


def evaluate_images(
    images: str,
    reference: str,
    heldout: str | None,
    *,
    seed: int = 0,
    device: str = "auto",
    reading: Reading | None = None,
    **options: Any,
) -> Outcome:
    """Score any set of images against another, or against the statistics of one."""
    place, is_main = connect(device)
    reading = reading or Reading()
    fake, _ = open_image_set(images, reading)
    notes = [f"scored {images} against {reference}", *remarks(fake)]
    both = holds_images_too(reference)
    named = options.get("metrics") or ()
    wants_images = heldout is not None or not all(map(allowed_by_statistics, named))
    if holds_statistics(reference) and not (both and wants_images):
        if both:
            notes.append(
                f"{reference} holds statistics and images, and FID is of the statistics: name other `--metrics`, or `--heldout`, to "
                "score against the images"
            )
        if heldout is not None:
            raise ConfigError(f"`--heldout` needs the real images themselves, and {reference} holds statistics of them")
        if options.pop("kid_subset_size", None) is not None:
            raise ConfigError(
                f"`--kid-subset-size` goes with KID, and {reference} holds statistics, which do not allow it"
            )
        options.pop("collapse", None)  # there is no verdict against statistics
        statistics = read_reference(reference)
        report = evaluate_against_statistics(fake, statistics, device=place, progress=is_main, **options)
        report = replace(report, run=_describe_sets(images, reference, None))
        return Outcome(report, notes)
    real, other = open_image_set(reference, reading)
    if both:
        notes.append(
            f"{reference} holds statistics and {len(real):,} images, and all scores are against the images: ask for FID and sFID "
            "alone to have them of the statistics"
        )
    if heldout is not None:
        if Path(heldout).resolve() == Path(reference).resolve():
            raise DataError(
                f"`--heldout {heldout}` is the reference itself: name other real images, which the reference does not hold"
            )
        other = open_image_set(heldout, reading)[0]
    evaluator = Evaluator(real, other, device=place, seed=seed, progress=is_main, **options)
    report = replace(evaluator.evaluate(fake), run=_describe_sets(images, reference, heldout))
    return Outcome(report, [*notes, *remarks(real), *remarks(other)])


def _describe_sets(images: str, reference: str, heldout: str | None) -> dict[str, Any]:
    """The section `run` of an evaluation of images that are no run's: the paths as they were given."""
    return {"images": images, "reference": reference, "heldout": heldout, **describe_now()}


def check_metrics(names: list[str], extractor: str | None) -> None:
    """Raises UserError for a metric that there is not, before any data is read. `extractor`: a file adds metrics of its name."""
    own = extractor is not None and extractor not in NAMES and Path(extractor).is_file()
    more = metrics_of(name_of_file(Path(str(extractor))), classes=False) if own else ()
    check_names(names, [*METRICS, *GENERIC, *KNOWN_MODES, *more])


def check_can_collapse(reference: str) -> None:
    """Raises ConfigError where no held-out images are given and `reference` brings none, so that no verdict can be reached."""
    if Path(reference).suffix not in (".yaml", ".yml"):
        raise ConfigError(
            "`--fail-on collapse` needs `--heldout PATH`, other real images: without them the verdict is always `inconclusive`, "
            "and nothing would ever fail"
        )


def remarks(images: ImageSet | None) -> list[str]:
    """A line for each kind of image of a set that is not taken as it is, and one for those that could not be read."""
    if images is None:
        return []
    lines = [f"{images.name}: {note}" for note in getattr(images, "notes", ())]
    skipped = getattr(images, "skipped", ())
    if skipped:
        shown = ", ".join(skipped[:3]) + (", …" if len(skipped) > 3 else "")
        total = len(skipped) + len(images)
        lines.append(f"warning: {len(skipped):,} of {total:,} images cannot be read and are left out: {shown}")
    return lines


def verify_images(
    images: str, reference: str, *, device: str = "auto", extractor: str | None = None, reading: Reading | None = None
) -> tuple[Verification, list[str]]:
    """Cross-check the scores of two sets with torch-fidelity and torchmetrics, on the images themselves.

    With it come lines for people, on images that are left out or not taken as they are.
    """
    place, is_main = connect(device)
    choice = choose_extractor(extractor or "inception")
    if choice.name != "inception":
        raise ConfigError(f"`--verify` compares Inception's scores, and `--extractor {extractor}` is another network")
    if holds_statistics(reference) and not holds_images_too(reference):
        raise ConfigError(f"`--verify` compares images, and {reference} holds statistics of them: name the real images")
    weights, custom = find_weights(choice.file)
    sets = [open_image_set(path, reading)[0] for path in (images, reference)]
    found = verify(sets[0], sets[1], weights, custom=custom, device=place, progress=is_main)
    return found, [line for image_set in sets for line in remarks(image_set)]


def open_image_set(path: str, reading: Reading | None = None) -> tuple[ImageSet, ImageSet | None]:
    """The images at `path`, and the held-out ones, where `path` is a config (whose data is meant)."""
    reading = reading or Reading()
    if Path(path).suffix in (".yaml", ".yml"):
        config = load_config(path)
        dataset = open_datasets(config, progress=distributed.rank() == 0, names=[""])[""]
        return dataset.train, dataset.heldout
    # Columns are of parquet files, and only some of the sets may be such.
    columns = asdict(reading)
    if not is_parquet(Path(path).expanduser()):
        columns |= {"image_column": None, "label_column": None}
    return open_images(path, **columns), None
