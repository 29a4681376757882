"""The evaluator: one pass over the images, every extractor run once, then the metrics, their floors and the verdict."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gantk_eval import distributed
from gantk_eval.collapse.calibration import PERMUTATIONS
from gantk_eval.errors import DataError, UserError, WeightsError
from gantk_eval.extraction import Extraction
from gantk_eval.extractors import Extractor, feature_type
from gantk_eval.extractors.choice import Choice, build_extractor, choose_extractor
from gantk_eval.extractors.classifier import USED_BY, ClassifierExtractor
from gantk_eval.extractors.inception import PRECISIONS, InceptionExtractor, find_weights
from gantk_eval.extractors.inception_spatial import InceptionSpatialExtractor, features_under
from gantk_eval.extractors.pixel_pca import PixelPCAExtractor
from gantk_eval.extras import Extras, Harvest
from gantk_eval.features import Features
from gantk_eval.images import ArrayImages, GeneratedImages, ImageSet
from gantk_eval.inception_score import SPLITS
from gantk_eval.kernel_distance import SUBSETS
from gantk_eval.labels import align_labels, other_classes, with_distinct_classes
from gantk_eval.lpips import LPIPS, find_backbone
from gantk_eval.lpips import missing as missing_lpips
from gantk_eval.measures import neighbour_count
from gantk_eval.metrics import METRICS, metrics_of
from gantk_eval.neighbours import BALLS
from gantk_eval.pairs import scales_for
from gantk_eval.protocol import Protocol
from gantk_eval.report import Report, left_out, score
from gantk_eval.scores import Scorer
from gantk_eval.verdicts import FEWEST_REAL, Verdicts
from gantk_eval.wanted import Wanted

__all__ = ["Evaluator"]

INCEPTIONS = ("inception", "inception_spatial")
"""One network, from which both kinds of features come in one pass."""
ONLY_THE_VERDICT = (
    "the verdict uses to tell lost classes, and no score does: --no-verdict (collapse=False) does without it"
)


class Evaluator:
    """Evaluates sets of generated images against one reference; what is known of the reference is worked out once.

    `reference`: real images, of the training split as a rule; with labels a classifier can be trained on them.
    `heldout`: real images that no one trained on, for the floors and the collapse verdict.
    `metrics`: names out of `METRICS`, or of `GENERIC` for those that are worked out in the best features at hand; None
    takes all that cost little: fid, is, kid, precision, recall, density, coverage and the Vendi score where Inception
    weights are at hand, else the same in the weights-free tier, with a warning on stderr. `device`: where networks run.
    `seed`: of the classifier and the permutations.
    `batch_size`: images a chunk; chunks are aligned to the global index. `kid_subset_size`: default 1000 (where `metrics` is
    None and there are fewer images, as many as there are). `inception_weights`: a file of your own in torch-fidelity's
    format; its scores are called `fd_inception-custom` and so on. `accuracy_floor`: the held-out accuracy below which the
    classifier is refused (0.97 for grey, 0.65 for colour images). `collapse`: whether to work out the verdicts on
    collapse and memorisation. `extractor`: whose features default and generic metrics are worked out in: `inception`,
    `dinov2`, `clip`, `classifier`, `pixel_pca`, or a file (weights of one of the first three, or a TorchScript or
    torch.export program of your own); None: the best at hand. `precision`: `bf16` runs Inception in bfloat16, for
    monitoring: its scores are called `fd_inception-bf16` and so on. `check`: called on every rank while a classifier is
    trained and after each chunk of images; what it raises on one rank ends the evaluation on all.

    With `torch.distributed` initialised, all ranks make one and call `evaluate` together; each gets the same report.
    Raises, before anything expensive starts: UserError for an unknown metric, WeightsError for missing weights that a
    metric named in `metrics` needs, DataError for image sets that do not fit.
    """

    def __init__(
        self,
        reference: ImageSet,
        heldout: ImageSet | None = None,
        *,
        metrics: Sequence[str] | None = None,
        device: Any = "cpu",
        seed: int = 0,
        batch_size: int = 100,
        kid_subset_size: int | None = None,
        progress: bool = False,
        inception_weights: str | Path | None = None,
        accuracy_floor: float | None = None,
        collapse: bool = True,
        permutations: int = PERMUTATIONS,
        extractor: str | Path | None = None,
        precision: str = "fp32",
        check: Callable[[], None] = distributed.no_check,
    ) -> None:
        self._names_given = reference.class_names
        reference = with_distinct_classes(reference)
        self.reference, self.heldout = reference, heldout
        self._choice = None if extractor is None else choose_extractor(extractor)
        if self._choice is not None and self._choice.name == "inception" and self._choice.file is not None:
            inception_weights = self._choice.file
        if self._choice is not None and self._choice.own:
            METRICS.update(metrics_of(self._choice.name, classes=False))
        if precision not in PRECISIONS:
            raise UserError(f"the precision of the evaluation is {precision!r}; choose from {', '.join(PRECISIONS)}")
        self._precision = precision
        self._device, self._seed, self._batch_size = device, seed, batch_size
        self._progress = progress
        self._inception_weights, self._accuracy_floor = inception_weights, accuracy_floor
        self._verdicts = Verdicts(reference, heldout, enabled=collapse, seed=seed, permutations=permutations)
        self._collapse, self._check = collapse, check
        self._extractors: dict[str, Extractor] = {}
        self._real: dict[tuple[str, str], Features] = {}
        self._no_classifier = ""
        self._scorer: Scorer | None = None
        self._lpips: LPIPS | None = None
        self._prepared = False
        if batch_size < 1:
            raise UserError(f"the batch size of the evaluation is {batch_size}; give at least 1")
        self._wanted = Wanted(metrics, reference, kid_subset_size)
        if len(reference) < 2:
            raise DataError(f"{reference.name} holds {len(reference)} image; a reference needs at least 2")
        if heldout is not None:
            self._check_shape(heldout)
            self._check_classes(heldout)
        self._weights = self._find_inception()
        self._backbone = self._find_lpips()

    def _find_lpips(self) -> Path | None:
        """LPIPS's weights, where a metric wants them; WeightsError where one does by name and there are none."""
        needed = self._wanted.of("lpips")
        if not needed and "ppl" not in self._wanted.names:
            return None
        found = find_backbone()
        if needed and found is None:
            raise missing_lpips()
        return found

    def _check_shape(self, images: ImageSet) -> None:
        if tuple(images.shape) != tuple(self.reference.shape):
            (h, w, c), (height, width, channels) = images.shape, self.reference.shape
            raise DataError(
                f"{images.name} is {w}×{h} with {c} channels, but {self.reference.name} is {width}×{height} with {channels}; "
                "bring both to one size and mode"
            )

    def _check_classes(self, images: ImageSet) -> None:
        """Raises DataError for classes that the reference lacks, and warns of labels that are about something else."""
        align_labels(images, self.reference)
        if sentence := other_classes(images, self.reference):
            distributed.say(f"warning: {sentence}")

    def _find_inception(self) -> tuple[Path, bool] | None:
        """The weights file and whether it is custom; None where it isn't needed, or is missing and was not asked for."""
        needed, generic = self._wanted.of(*INCEPTIONS), self._wanted.generic
        if self._choice is not None:
            needed = needed or (generic and self._choice.name == "inception")
            generic = False
        if not needed and not generic:
            return None

        def find() -> bytes:  # on one rank: 16 processes need not try to download at once
            try:
                path, custom = find_weights(self._inception_weights)
            except WeightsError:
                if needed or self._inception_weights:
                    raise
                return b""
            return json.dumps([str(path), custom]).encode()

        found = distributed.from_first(find)
        if not found:
            return None
        path, custom = json.loads(found)
        return Path(path), bool(custom)

    # -- what is worked out once ------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Builds the extractors and the reference's features; `evaluate` does it where it has not been done."""
        if self._prepared:
            return
        classifier = self._choose()
        used = self._wanted.extractors
        if set(used) & set(INCEPTIONS):
            assert self._weights is not None
            inception = InceptionExtractor(
                self._weights[0], custom=self._weights[1], device=self._device, precision=self._precision
            )
            if "inception" in used:
                self._extractors["inception"] = inception
            if "inception_spatial" in used:
                self._extractors["inception_spatial"] = InceptionSpatialExtractor(inception)
            if self._precision == "bf16":
                distributed.say(
                    "warning: Inception runs in bf16: its scores have names of their own, and are for monitoring"
                )
        for name in used:
            named = self._choice is not None and self._choice.name == name
            if name in ("dinov2", "clip") or (named and name not in (*INCEPTIONS, "classifier", "pixel_pca")):
                choice = self._choice if self._choice is not None and named else Choice(name)
                self._extractors[name] = build_extractor(choice, shape=self.reference.shape[:2], device=self._device)
        if classifier is not None:
            self._extractors["classifier"] = classifier
        if self._collapse or "pixel_pca" in used:
            self._extractors["pixel_pca"] = PixelPCAExtractor(self.reference)
        if self._backbone is not None:
            self._lpips = LPIPS(self._backbone, device=self._device)
        self._extras = Extras(
            self._wanted.names, self._lpips, self._extractors, seed=self._seed, chunk=self._batch_size
        )
        extraction = self._extraction()
        for images, role in ((self.reference, "reference"), (self.heldout, "heldout")):
            if images is not None:
                for name, features in extraction.cached(images, role).items():
                    self._real[role, name] = features
        self._prepared = True

    def _choose(self) -> ClassifierExtractor | None:
        """Fixes the metrics, and trains the classifier where a metric or the verdict wants it and the data allows it."""
        needs, generic = self._wanted.of("classifier"), self._wanted.generic
        needs = needs or (generic and self._choice is not None and self._choice.name == "classifier")
        tier = generic and self._weights is None and self._choice is None
        classifier = None
        # A verdict on classes needs it, in whatever features the scores are: only where there can be a verdict.
        judged = self._collapse and self.heldout is not None
        judged = judged and min(len(self.reference), len(self.heldout or ())) >= FEWEST_REAL
        if needs or tier or judged:
            try:
                classifier = ClassifierExtractor(
                    self.reference,
                    seed=self._seed,
                    device=self._device,
                    floor=self._accuracy_floor,
                    progress=self._progress and distributed.rank() == 0,
                    check=self._check,
                    used_by=USED_BY if needs or tier else ONLY_THE_VERDICT,
                )
            except DataError as error:
                if needs:
                    raise
                self._no_classifier = str(error)
        best = "pixel_pca" if classifier is None else "classifier"
        if self._weights is not None:
            best = "inception"
        if self._choice is not None:
            best = self._choice.name
        tier_of_paths = "pixel_pca" if classifier is None else "classifier"
        self._wanted.settle(best, tier_of_paths if self._backbone is None else "lpips")
        if tier and not self._wanted.explicit:
            why = f" ({self._no_classifier})" if classifier is None else ""
            stand_in = [name for name in self._wanted.names if METRICS[name].kind in ("fd", "is", "kd")]
            distributed.say(
                f"warning: no Inception weights here, so {', '.join(stand_in)} stand in for FID, IS and KID{why}; they compare "
                "only with themselves"
            )
        return classifier

    def _extraction(self) -> Extraction:
        """With what is in use: where nothing but Fréchet distances is wanted of an extractor, features need not be kept."""
        judged = ("pixel_pca", "classifier")  # the verdicts and the accuracy look at each image; a row is small
        return Extraction(
            self._extractors,
            device=self._device,
            batch_size=self._batch_size,
            progress=self._progress,
            check=self._check,
            only_statistics=[n for n in self._extractors if self._wanted.kinds_in(n) == {"fd"} and n not in judged],
        )

    # -- the evaluation ---------------------------------------------------------------------------------------------

    def evaluate(self, fake: ImageSet) -> Report:
        """Scores, floors and verdict of generated images; the same on every rank.

        Raises DataError where they differ in shape from the reference, have classes that it lacks, or are too few for a
        metric that was named.
        """
        self._check_shape(fake)
        subset_size = self._wanted.check(fake)
        self._check_classes(fake)
        self.prepare()
        wanted = self._wanted.of_images(fake, self._extractors)
        pairs = self._extras.pairs(fake)
        features, pixels = self._extraction().extract(fake, list(self._extractors), "generated images", pairs)
        harvest = Harvest(pairs, pixels, self._extras.lengths(fake))
        fingerprint = fake.fingerprint() if distributed.rank() == 0 else ""
        return self._finish(fake, features, wanted, subset_size, fingerprint, harvest)

    def _finish(
        self,
        fake: ImageSet,
        features: dict[str, Features],
        wanted: tuple[str, ...],
        subset_size: int,
        fingerprint: str,
        harvest: Harvest,
    ) -> Report:
        pictures: list[bytes | None] = []

        def work() -> bytes:
            report = self._report(fake, features, wanted, subset_size, fingerprint, harvest)
            pictures.append(report.picture)
            return report.to_json(indent=None).encode()

        report = Report.from_dict(json.loads(distributed.from_first(work)))
        return replace(report, picture=pictures[0] if pictures else None)

    # -- for images that come in batches (`streaming`) ------------------------------------------------------------------

    def check_pixels(self, pixels: np.ndarray, name: str) -> None:
        """Raises DataError where a batch uint8 [n, H, W, C] differs in size or channels from the reference."""
        self._check_shape(ArrayImages(pixels, name=name))

    def features_of(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Features [n, d] of a batch uint8 [n, H, W, C] under every extractor in use, by its name."""
        self.prepare()
        return features_under(self._extractors, pixels)

    def extractor(self, name: str) -> Extractor:
        """The extractor in use under this name."""
        return self._extractors[name]

    def empty_features(self, kept: dict[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
        """The batches kept so far by extractor, each list with an array of no rows in front: one rank may have none."""
        self.prepare()
        return {
            name: [np.empty((0, extractor.dims), dtype=feature_type(extractor)), *kept.get(name, [])]
            for name, extractor in self._extractors.items()
        }

    def report_on(self, features: dict[str, Features], labels: np.ndarray | None, identity: str) -> Report:
        """The report on features that `features_of` gave, gathered over ranks, in the order of the samples.

        `labels`: int64 [n], the reference's own. `identity`: stands for the images in the protocol.
        """
        count = len(next(iter(features.values())))
        fake = GeneratedImages(
            count,
            _never,
            self.reference.shape,
            identity=identity,
            labels=labels,
            class_names=self._names_given,
        )
        subset_size = self._wanted.check(fake)
        self._check_classes(fake)
        wanted = self._wanted.of_images(fake, self._extractors)
        return self._finish(fake, features, wanted, subset_size, fake.fingerprint(), Harvest())

    def _report(
        self,
        fake: ImageSet,
        generated: dict[str, Features],
        wanted: tuple[str, ...],
        subset_size: int,
        fake_sha256: str,
        harvest: Harvest,
    ) -> Report:
        reference = {name: self._real["reference", name] for name in self._extractors}
        heldout = {name: self._real["heldout", name] for name in self._extractors} if self.heldout is not None else None
        labels = align_labels(fake, self.reference)
        if self._scorer is None:  # kept, for it knows the floors
            self._scorer = Scorer(
                reference,
                heldout,
                reference_labels=self.reference.labels,
                heldout_labels=None if self.heldout is None else align_labels(self.heldout, self.reference),
                class_names=self.reference.class_names,
            )
        extras = self._extras.entries(harvest, len(self.reference), self.heldout)
        metrics = self._scorer.score(generated, [n for n in wanted if n not in extras], labels, subset_size)
        metrics |= extras
        names = dict.fromkeys((*wanted, *(name for name in metrics if name in METRICS)))
        for name, reason in self._wanted.too_few(fake).items():
            because = {"value": reason, "floor": reason}
            metrics[name] = score(None, n_fake=len(fake), n_real=len(self.reference), none_because=because)
        protocol = self._protocol(len(fake), tuple(names), subset_size, fake_sha256)
        collapse, picture = self._verdicts.collapse(fake, generated, reference, heldout, self._no_classifier)
        memorised = self._verdicts.memorised(generated, reference, heldout)
        skipped = left_out(images=fake, reference=self.reference, heldout=self.heldout)
        return Report(metrics, collapse, protocol.to_dict(), memorised, picture, skipped)

    def _protocol(self, count: int, wanted: tuple[str, ...], subset_size: int, fake_sha256: str) -> Protocol:
        import torch

        used = list(dict.fromkeys(METRICS[name].extractor for name in wanted))
        extractors: list[Any] = [self._extractors[name] for name in used if name in self._extractors]
        if "lpips" in used:
            assert self._lpips is not None
            self._lpips.resize = f"area-{self._lpips.side(self.reference.shape) or 'none'}"
            extractors.append(self._lpips)
        kinds = {METRICS[name].kind for name in wanted}
        classifier = self._extractors.get("classifier")
        return Protocol(
            extractor="+".join(e.name for e in extractors),
            weights_sha256="+".join(e.weights_sha256 for e in extractors),
            resize="+".join(e.resize for e in extractors),
            precision="+".join(e.precision for e in extractors),
            shape=self.reference.shape,
            n_fake=count,
            n_real=len(self.reference),
            n_heldout=None if self.heldout is None else len(self.heldout),
            seed=self._seed,
            reference_sha256=self.reference.fingerprint(),
            reference_identity=_identity(self.reference),
            heldout_sha256=None if self.heldout is None else self.heldout.fingerprint(),
            fake_sha256=fake_sha256,
            is_splits=SPLITS if "is" in kinds else None,
            kid_subsets=SUBSETS if "kd" in kinds else None,
            kid_subset_size=subset_size if "kd" in kinds else None,
            ms_ssim_scales=scales_for(self.reference.shape) if "ms_ssim" in kinds else None,
            neighbour_images=neighbour_count(count, len(self.reference)) if kinds & set(BALLS) else None,
            classifier_accuracy=classifier.accuracy if isinstance(classifier, ClassifierExtractor) else None,
            software={
                "torch": torch.__version__,
                "numpy": np.__version__,
                "device": str(self._device),
                "threads": str(torch.get_num_threads()),
                "world_size": str(distributed.world_size()),
            },
        )


def _identity(images: ImageSet) -> str | None:
    identity = getattr(images, "identity", None)
    return str(identity()) if callable(identity) else None


def _never(indices: np.ndarray) -> np.ndarray:
    raise RuntimeError("images that came in batches are not kept")
