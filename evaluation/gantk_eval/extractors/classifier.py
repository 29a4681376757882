"""The weights-free tier: a small convolutional classifier trained here on the labelled reference.

It makes features that know what the data's classes look like, on a machine that has no pretrained weights. Scores in its
features are `fd_classifier`, `is_classifier`, `kd_classifier`, never FID or IS, and agree only where the weights agree.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from gantk_eval import distributed
from gantk_eval.cache import cached_arrays, key_of, pack, unpack
from gantk_eval.errors import DataError
from gantk_eval.extractors.kept_training import KeptTraining
from gantk_eval.extractors.precision import exact_float32
from gantk_eval.images import ImageSet
from gantk_eval.paths import cache_folder
from gantk_eval.progress import Bar

__all__ = ["ClassifierExtractor", "accuracy_floor"]

RECIPE = "classifier-1"
WIDTHS = (32, 64, 128)
SIDE = 32
TRAIN_IMAGES = 10_000
TEST_IMAGES = 10_000
BATCH, LEAST_BATCH = 100, 25
"""Images a step of training."""
IMAGES_PER_BATCH_IMAGE = 20
"""Colour sets have a smaller batch where it would hold more than a twentieth of them: as many steps, for less work."""
# Steps, not epochs: a small set needs as many steps as a large one. Colour (natural images) is the harder task.
STEPS = {1: 200, 3: 1000}
LEARNING_RATE = {1: 0.01, 3: 0.01}
# Both for a metric that is wanted and for a verdict, to which pixels are no help.
FEATURES = "give weights of Inception, DINOv2 or CLIP (`--extractor`)"
USED_BY = "scores and the verdict use"
INSTEAD = f"sort its images into a sub-folder for each class, or {FEATURES}"


def accuracy_floor(channels: int) -> float:
    """The held-out accuracy below which a classifier is refused: 97 % for grey images (digits), 65 % for colour."""
    return 0.97 if channels == 1 else 0.65


def _network(channels: int, classes: int, seed: int = 0) -> Any:
    import torch
    from torch import nn

    def block(inside: int, outside: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]

    # Pooling after every layer but the last keeps the full-size layers, which cost most, few and thin.
    first, second, third = WIDTHS
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would also seed the GPUs, whose state a training loop around this relies on.
        torch.default_generator.manual_seed(seed)
        layers: list[nn.Module] = []
        for inside, outside in ((channels, first), (first, second), (second, third)):
            layers += [*block(inside, outside), nn.MaxPool2d(2, ceil_mode=True)]
        layers += [*block(third, third), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(nn.Sequential(*layers), nn.Linear(third, classes))


def _prepare(images: np.ndarray, device: Any) -> Any:
    """uint8 [n, H, W, C] -> float32 [n, C, h, w] in [-1, 1], larger images brought to 32×32 by cell means."""
    import torch
    import torch.nn.functional as F

    batch = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float()
    batch = batch / 127.5 - 1.0
    if batch.shape[2] > SIDE or batch.shape[3] > SIDE:
        batch = F.adaptive_avg_pool2d(batch, (min(SIDE, batch.shape[2]), min(SIDE, batch.shape[3])))
    return batch.contiguous(memory_format=torch.channels_last)


def _augment(batch: Any, generator: Any, flip: bool) -> Any:
    """Shifts of up to an eighth of the side and, for colour, mirror images. Grey sets may be digits or letters."""
    import torch
    import torch.nn.functional as F

    count, _, height, width = batch.shape
    reach = max(1, min(height, width) // 8)
    padded = F.pad(batch, (reach,) * 4, mode="replicate")
    rows = torch.randint(0, 2 * reach + 1, (count, 1), generator=generator) + torch.arange(height)
    columns = torch.randint(0, 2 * reach + 1, (count, 1), generator=generator) + torch.arange(width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    where = torch.arange(count)[:, None, None]
    rows, columns, where = rows.to(batch.device), columns.to(batch.device), where.to(batch.device)
    shifted = padded.permute(0, 2, 3, 1)[where, rows[:, :, None], columns[:, None, :]]
    return shifted.permute(0, 3, 1, 2)


def _split(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on and to test on, disjoint: 85 % and 15 %, at most 10,000 each."""
    order = np.random.default_rng(seed).permutation(count)
    train = min(TRAIN_IMAGES, round(0.85 * count))
    return order[:train], order[train : train + TEST_IMAGES]


def batch_size(channels: int, count: int) -> int:
    """Images a step for `count` images to train on: 100, and for small colour sets down to 25.

    A twentieth of 2,000 is 100: colour sets of 2,353 images and more, of which 85 % are trained on, and all grey sets, are
    trained by the same recipe as before there was this rule, and have the same weights and scores.
    """
    if channels == 1:
        return min(BATCH, count)
    return min(count, max(LEAST_BATCH, min(BATCH, count // IMAGES_PER_BATCH_IMAGE)))


def _train(
    reference: ImageSet,
    classes: int,
    seed: int,
    device: Any,
    progress: bool,
    check: distributed.Check,
    kept_in: Path | None = None,
    used_by: str = USED_BY,
) -> dict[str, np.ndarray]:
    """Trains, and tests on images that were not trained on: the network's arrays and `confusion` [true, predicted].

    `kept_in`: the file that an interrupted training resumes from. `used_by`: what for, in the line before the bar.
    """
    import torch
    import torch.nn.functional as F

    assert reference.labels is not None
    device = torch.device(device)
    train, test = _split(len(reference), seed)
    channels = reference.shape[2]
    images = _prepare(reference.read(train), device)
    labels = torch.from_numpy(reference.labels[train]).to(device)
    network = _network(channels, classes, seed)
    network = network.to(device).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    steps = STEPS[channels]
    batch = batch_size(channels, len(train))
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE[channels], weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE[channels], total_steps=steps, pct_start=0.2, cycle_momentum=False
    )
    kept = KeptTraining(kept_in, network, optimizer, schedule, generator)
    done, order = kept.resume()
    bar = Bar(
        steps,
        "training the classifier",
        "step",
        enabled=progress,
        done=done,
        purpose=f"training the classifier of the {classes} classes that {used_by} (once for these images; kept in {cache_folder()})",
    )
    with bar, torch.enable_grad(), torch.autocast(device.type, enabled=False):
        for step in range(done, steps):
            if len(order) < batch:
                order = torch.randperm(len(train), generator=generator)
            chosen, order = order[:batch].to(device), order[batch:]
            inputs = _augment(images[chosen], generator, flip=channels == 3)
            loss = F.cross_entropy(network(inputs), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
            kept.keep(step + 1, order)
            check()
    network.eval()
    confusion = np.zeros((classes, classes), dtype=np.int64)
    with exact_float32(device):
        for part in np.array_split(test, len(test) // 500 + 1):
            guess = network(_prepare(reference.read(part), device)).argmax(dim=1).cpu().numpy()
            np.add.at(confusion, (reference.labels[part], guess), 1)
    arrays = {f"net.{name}": value.cpu().numpy() for name, value in network.state_dict().items()}
    return {**arrays, "confusion": confusion}


class ClassifierExtractor:
    """Features [n, 128] of the layer before the last, and class logits, of a classifier of the reference's classes.

    `seed` and the reference's content decide the weights (on one machine, at one thread count), which are cached under
    them. `confusion`: int64 [true, predicted], counted on reference images that were not trained on; `accuracy`: its share
    on the diagonal. `floor`: the accuracy below which it is refused, by default `accuracy_floor`. `check`: see
    `distributed.Check`; called at each step of its training. `used_by`: what for, said before it is trained.
    Raises DataError where the reference has no labels, fewer than 2 classes, too few images, or the accuracy is too low.
    """

    name = "classifier"
    precision = "fp32"
    dims = WIDTHS[-1]

    def __init__(
        self,
        reference: ImageSet,
        *,
        seed: int = 0,
        device: Any = "cpu",
        floor: float | None = None,
        progress: bool = False,
        check: distributed.Check = distributed.no_check,
        used_by: str = USED_BY,
    ) -> None:
        import torch

        if reference.labels is None:
            raise DataError(f"{reference.name} has no labels to train a classifier on; {INSTEAD}")
        classes = int(reference.labels.max()) + 1
        present = np.bincount(reference.labels, minlength=classes)
        if classes < 2 or present.min() < 10:
            raise DataError(
                f"{reference.name} has {classes} classes, the smallest with {present.min()} images; a classifier needs at "
                "least 2 classes with at least 10 images each"
            )
        height, width, channels = reference.shape
        self.resize = f"area-{SIDE}" if max(height, width) > SIDE else "none"
        self._device = torch.device(device)

        def work(listen: distributed.Check) -> bytes:
            return pack(_cached(reference, classes, seed, self._device, progress, listen, used_by))

        arrays = unpack(distributed.from_first_unless(check, work))
        self.confusion = arrays.pop("confusion")
        self.accuracy = float(np.trace(self.confusion) / max(1, self.confusion.sum()))
        digest = hashlib.sha256()
        for key in sorted(arrays):
            digest.update(key.encode() + arrays[key].tobytes())
        self.weights_sha256 = digest.hexdigest()
        wanted = accuracy_floor(channels) if floor is None else floor
        if self.accuracy < wanted:
            raise DataError(
                f"the classifier of {reference.name} is right on only {self.accuracy:.1%} of held-out images, below the "
                f"floor of {wanted:.0%}, so its features would mean little; {FEATURES}, or lower accuracy_floor"
            )
        network = _network(channels, classes)
        network.load_state_dict({k.removeprefix("net."): torch.from_numpy(v) for k, v in arrays.items()})
        self._network = network.to(self._device).to(memory_format=torch.channels_last).eval()
        self._weight = arrays["net.1.weight"].astype(np.float64)
        self._bias = arrays["net.1.bias"].astype(np.float64)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self._bias)

    def features(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, C] -> float32 [n, 128]."""
        count = len(images)
        if (
            count == 1
        ):  # one image has no channels-last layout, goes through other kernels, and differs in its last bits
            images = np.repeat(images, 2, axis=0)
        with exact_float32(self._device):
            return self._network[0](_prepare(images, self._device)).cpu().numpy()[:count]

    def logits(self, features: np.ndarray) -> np.ndarray:
        """float64 [n, classes] from features."""
        return features.astype(np.float64) @ self._weight.T + self._bias


def _cached(
    reference: ImageSet, classes: int, seed: int, device: Any, progress: bool, check: distributed.Check, used_by: str
) -> dict[str, np.ndarray]:
    import torch

    fields = {
        "recipe": RECIPE,
        "reference": reference.fingerprint(),
        "seed": seed,
        "classes": classes,
        "steps": STEPS[reference.shape[2]],
    }
    # Weights differ between kinds of device and thread counts in their last bits; each keeps its own.
    fields |= {"device": device.type, "threads": torch.get_num_threads(), "torch": torch.__version__}
    batch = batch_size(reference.shape[2], len(_split(len(reference), seed)[0]))
    if reference.shape[2] == 3 and batch < BATCH:
        fields["batch"] = batch
    kept_in = cache_folder() / "classifiers" / f"{key_of(fields)}.part.npz"
    arrays = cached_arrays(
        "classifiers",
        fields,
        lambda: _train(reference, classes, seed, device, progress, check, kept_in, used_by),
        lambda a: a["confusion"].shape == (classes, classes) and a["net.1.weight"].shape == (classes, WIDTHS[-1]),
    )
    with contextlib.suppress(OSError):
        kept_in.unlink(missing_ok=True)
    return arrays
