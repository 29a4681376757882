"""Samples by global index: sample i of a model and seed is the same image, however many are drawn, and by whom."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gantk_eval.progress import Bar
from torch import Tensor, nn

from gantk.collectives import alone
from gantk.config import Config
from gantk.data import Dataset
from gantk.draws import Draws, key_of, torch_seeded
from gantk.errors import CheckpointError, UserError
from gantk.grids import save_grid, save_scatter, to_uint8
from gantk.networks import NETWORKS
from gantk.objectives import OBJECTIVES, Objective
from gantk.objectives.checks import Recording, check_objective
from gantk.plugins import config_of
from gantk.records import folder_whole, write_atomic
from gantk.training.checkpoint import Checkpoint, write


@dataclass(frozen=True)
class ImageShape:
    """What the networks of a run are built for; part of each checkpoint."""

    channels: int
    resolution: int
    class_names: tuple[str, ...] | None
    class_shares: tuple[float, ...] | None
    """Each class's share of the training images, from which the classes of samples are drawn."""
    extent: float | None = None
    """Samples are points in the plane and no images: half the side of the square, around the origin, that pictures show."""

    @classmethod
    def of(cls, dataset: Dataset) -> ImageShape:
        """What networks for `dataset` are built for."""
        names = shares = None
        if dataset.num_classes and dataset.train.labels is not None:
            # An npz or a parquet file has classes without names: their numbers are the names.
            names = dataset.class_names or tuple(str(label) for label in range(dataset.num_classes))
            counts = torch.bincount(torch.as_tensor(dataset.train.labels), minlength=len(names)).double()
            shares = tuple((counts / counts.sum()).tolist())
        extent = dataset.modes.extent if dataset.modes else None
        return cls(dataset.channels, dataset.resolution, names, shares, extent)

    def trained_classes(self) -> list[int]:
        """The numbers of the classes that have training images; of all where the shares are not known."""
        shares = self.class_shares or (1.0,) * len(self.class_names or ())
        return [number for number, share in enumerate(shares) if share > 0]

    def to_json(self) -> dict[str, Any]:
        return {
            "channels": self.channels,
            "resolution": self.resolution,
            "class_names": self.class_names,
            "class_shares": self.class_shares,
            "extent": self.extent,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ImageShape:
        names, shares = value["class_names"], value["class_shares"]
        return cls(
            int(value["channels"]),
            int(value["resolution"]),
            tuple(names) if names else None,
            tuple(shares) if shares else None,
            value.get("extent"),
        )


def build_objective(config: Config, shape: ImageShape) -> Objective:
    """The game of a config with new networks, whose weights depend on `config.seed` alone."""
    torch.manual_seed(config.seed)
    section: Any = config.network
    classes = len(shape.class_names) if shape.class_names else None
    family = NETWORKS.get(section.type)(
        section, channels=shape.channels, resolution=shape.resolution, num_classes=classes
    )
    game: Any = config.objective
    objective = OBJECTIVES.get(game.type)(game, family)
    check_objective(objective)
    return objective


class NetworksByName(dict[str, nn.Module]):
    """Networks by name; one that the loaded folder lacks is a sentence and not a network with random weights."""

    def __init__(self, networks: Mapping[str, nn.Module], folder: Path | None = None) -> None:
        super().__init__(networks)
        self.folder = folder
        """The checkpoint or export that they were loaded from."""

    def __missing__(self, name: str) -> nn.Module:
        if self.folder is None:
            raise KeyError(name)
        raise CheckpointError(
            f"{self.folder} has no network `{name}` ({name}.safetensors), which this objective uses here: take a "
            "checkpoint of the run itself, or export it again with this version of gantk"
        )


class Sampler:
    """Draws samples from an objective's networks.

    Args:
        objective: knows what a sample is.
        networks: those that differ from the objective's own: the averaged ones, as a rule.
        shape: of the images, and the classes there are.
        seed: of the samples.
        device: where the networks are.
    """

    def __init__(
        self,
        objective: Objective,
        networks: dict[str, nn.Module],
        shape: ImageShape,
        seed: int,
        device: torch.device,
    ) -> None:
        self.objective, self.shape, self.seed, self.device = objective, shape, seed, device
        self.networks: dict[str, nn.Module] = NetworksByName(
            {**objective.networks, **networks}, getattr(objective.networks, "folder", None)
        )
        self.dtype = next(next(iter(networks.values())).parameters()).dtype

    @property
    def conditional(self) -> bool:
        return self.objective.family.conditional

    def labels(self, index: np.ndarray) -> np.ndarray | None:
        """int64 [N]: the class of each sample, drawn with the classes' shares of the training images."""
        if not self.conditional or self.shape.class_shares is None:
            return None
        draws = Draws(key_of(self.seed, "sample", "label"), torch.as_tensor(index, dtype=torch.int64))
        return draws.categorical(torch.tensor(self.shape.class_shares)).numpy()

    @property
    def latent_path(self) -> Literal["linear", "spherical"]:
        """How one walks between latents without leaving their distribution."""
        return "spherical" if getattr(self.objective.family.config, "latent", "") == "normal" else "linear"

    def latent(self, index: np.ndarray, truncation: float = 1.0) -> Tensor:
        """z of the samples `index`, [N, latent_dim]."""
        rows = torch.as_tensor(index, dtype=torch.int64, device=self.device)
        return self.objective.latent(Draws(key_of(self.seed, "sample", "z"), rows, self.dtype), truncation)

    def images(self, index: np.ndarray, labels: np.ndarray | None = None, truncation: float = 1.0) -> np.ndarray:
        """Samples as uint8 [N, H, W, C]; arguments as for `raw`."""
        return to_uint8(self.raw(index, labels, truncation))

    def points(self, index: np.ndarray, truncation: float = 1.0) -> np.ndarray:
        """Samples that are points in the plane, float64 [N, 2]."""
        return self.raw(index, None, truncation).flatten(1).double().cpu().numpy()

    def raw(self, index: np.ndarray, labels: np.ndarray | None = None, truncation: float = 1.0) -> Tensor:
        """Samples as the generator gives them, [N, C, H, W].

        Args:
            index: int64 [N], which samples.
            labels: int64 [N], their classes; drawn where left out.
            truncation: of the latent, see `Family.draw_latent`.
        """
        if labels is None:
            labels = self.labels(index)
        first = int(index[0]) if len(index) else 0
        return self._decode(self.networks, self.latent(index, truncation), labels, first)

    def decode(self, latent: Tensor, labels: np.ndarray | None) -> Tensor:
        """Images float [N, C, H, W] in [−1, 1] of any latents [N, latent_dim], and classes int64 [N]."""
        return self._decode(self.networks, latent, labels)

    @torch.no_grad()
    def _decode(
        self, networks: Mapping[str, nn.Module], latent: Tensor, labels: np.ndarray | None, first: int = 0
    ) -> Tensor:
        """`first`: the index of the first sample, which noise that the networks draw themselves depends on."""
        classes = torch.as_tensor(labels, device=self.device) if labels is not None and self.conditional else None
        was = {name: network.training for name, network in self.networks.items()}
        for network in self.networks.values():
            network.eval()
        # In full precision whatever the training's: a score should not depend on how the model was trained.
        noise = torch_seeded(key_of(self.seed, "sample", "noise", first), self.device)
        with torch.autocast(self.device.type, enabled=False), alone(), noise:
            images = self.objective.generate(networks, latent, classes)
        for name, network in self.networks.items():
            network.train(was[name])
        return images

    def networks_used(self) -> set[str]:
        """The names of the networks that a sample goes through, found by drawing two."""
        recording, own = Recording(self.networks), self.objective.networks
        index = np.arange(2)
        # A `generate` may take some from the objective itself.
        self.objective.networks = recording  # type: ignore[assignment]
        try:
            self._decode(recording, self.latent(index), self.labels(index))
        finally:
            self.objective.networks = own
        return recording.asked

    def grid(self, count: int) -> tuple[np.ndarray, int | None, Sequence[str] | None]:
        """Fixed samples to look at: images, columns, and a caption for each row.

        A conditional model shows ten of each class, a class a row.
        """
        if not self.conditional or not self.shape.class_names:
            return self.images(np.arange(count)), None, None
        shown = self.shape.trained_classes()[: max(count // 10, 10)]
        names = tuple(self.shape.class_names[number] for number in shown)
        labels = np.repeat(np.array(shown), 10)
        return self.images(np.arange(len(labels)), labels), 10, names

    def save_picture(self, count: int, path: Path) -> None:
        """Write fixed samples to look at as PNG: a grid of images (see `grid`), or a scatter plot of points."""
        if self.shape.extent is not None:
            save_scatter(self.points(np.arange(count)), path, self.shape.extent)
        else:
            images, columns, captions = self.grid(count)
            save_grid(images, path, columns, captions)


def load_sampler(
    checkpoint: Checkpoint, device: torch.device | str = "cpu", seed: int | None = None
) -> tuple[Sampler, Config]:
    """The sampler of a checkpoint, with its averaged networks.

    Raises:
        CheckpointError: where the checkpoint does not fit its own config.
    """
    device = torch.device(device)
    config = config_of(checkpoint)
    try:
        shape = ImageShape.from_json(checkpoint.state["shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.folder / 'state.json'} has no image shape: take another checkpoint"
        ) from error
    objective = build_objective(config, shape)
    loaded = {}
    for name in list(objective.networks):
        stem = f"{name}.ema" if name in objective.averaged else name
        # An export holds the networks that samples go through, and no others.
        if name in objective.averaged or checkpoint.has(stem):
            loaded[name] = _placed(objective.networks[name], config, device).eval().requires_grad_(False)
            checkpoint.load_network(stem, loaded[name])
    lacking = objective.networks.keys() - loaded.keys()
    objective.networks = NetworksByName(loaded, checkpoint.folder)
    # As `Trainer` does: its own state has no memory layout of images.
    objective.to(device=device, dtype=_dtype(config))
    if checkpoint.has("objective"):
        checkpoint.load_network("objective", objective)
    averaged = {name: loaded[name] for name in objective.averaged}
    sampler = Sampler(objective, averaged, shape, config.seed if seed is None else seed, device)
    if lacking:
        # Now, and not when real images have been read.
        sampler.networks_used()
    return sampler, config


def _dtype(config: Config) -> torch.dtype:
    return torch.float64 if config.train.precision == "float64" else torch.float32


def _placed(network: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """On the device, in the precision and the memory layout in which it was trained: its samples are then bit for bit
    those that training drew on such a device.
    """
    network = network.to(device=device, dtype=_dtype(config))
    return network.to(memory_format=torch.channels_last) if config.train.channels_last else network


def write_samples(
    sampler: Sampler,
    out: Path,
    count: int,
    *,
    labels: np.ndarray | None,
    truncation: float,
    chunk: int,
    start: int = 0,
    progress: bool = True,
) -> None:
    """Write samples `start` … `start + count − 1` to a folder of PNGs, one PNG grid, or an `.npz`: whole or not at all.

    Raises:
        UserError: for a file name of another kind, or a folder that holds other files.
    """
    from PIL import Image

    suffix = out.suffix.lower()
    if suffix not in ("", ".png", ".npz") or (suffix and out.is_dir()):
        raise UserError(f"`--out {out}`: give a folder, a file that ends in .png (one grid) or one that ends in .npz")
    index = np.arange(start, start + count)
    if sampler.shape.extent is not None:
        _write_points(sampler, out, index, truncation, chunk)
        return
    if not suffix:
        if out.is_file():
            raise UserError(f"`--out {out}` is a file: give a folder, or a name that ends in .png or .npz")
        if out.is_dir() and any(out.iterdir()):
            raise UserError(
                f"`--out {out}` holds files already: give an empty or new folder, for a folder of samples holds nothing else"
            )
    drawn, classes = [], []
    with (
        Bar(count, "drawing samples", "image", enabled=progress) as bar,
        contextlib.nullcontext() if suffix else folder_whole(out) as folder,
    ):
        # Chunks keep their size: see `EvaluateConfig.batch_size`.
        for first in range(0, count, chunk):
            rows = index[first : first + chunk]
            asked = None if labels is None else labels[first : first + chunk]
            if asked is None:
                asked = sampler.labels(rows)
            images = sampler.images(rows, asked, truncation)
            if folder is None:
                drawn.append(images)
                if asked is not None:
                    classes.append(asked)
            else:
                for number, image in zip(rows, images, strict=True):
                    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
                    picture.save(folder / f"{number:06d}.png")
            bar.update(len(rows))
    if suffix == ".png":
        save_grid(np.concatenate(drawn), out)
    elif suffix == ".npz":
        arrays = {"images": np.concatenate(drawn)}
        if classes:
            arrays["labels"] = np.concatenate(classes)
            if sampler.shape.class_names:
                arrays["class_names"] = np.array(sampler.shape.class_names)
        _save_npz(out, arrays)


def _write_points(sampler: Sampler, out: Path, index: np.ndarray, truncation: float, chunk: int) -> None:
    if out.suffix.lower() not in (".png", ".npz"):
        raise UserError(
            f"`--out {out}`: the samples are points, so give a file that ends in .png (a plot) or .npz (`points`)"
        )
    assert sampler.shape.extent is not None
    parts = [sampler.points(index[first : first + chunk], truncation) for first in range(0, len(index), chunk)]
    if out.suffix.lower() == ".png":
        save_scatter(np.concatenate(parts), out, sampler.shape.extent)
    else:
        _save_npz(out, {"points": np.concatenate(parts)})


def _save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)  # type: ignore[arg-type]
    write_atomic(path, data.getvalue())


def class_number(sampler: Sampler, label: str) -> int:
    """The number of a class given by its name, or by its number where the names are not numbers themselves.

    Raises:
        UserError: for an unconditional model, or a class that there is not, or of which there were no training images.
    """
    names = sampler.shape.class_names
    if not sampler.conditional or names is None:
        raise UserError("`--label` goes with a conditional model, and this one is not: leave it out")
    trained = sampler.shape.trained_classes()
    there = f"there are: {', '.join(names[number] for number in trained)}"
    if label in names:
        number = names.index(label)
    elif label.isdecimal() and int(label) < len(names) and not all(name.isdecimal() for name in names):
        number = int(label)
    else:
        raise UserError(f"there is no class `{label}`; {there}")
    if number not in trained:
        raise UserError(f"class `{names[number]}` has no training images, so the model cannot draw it; {there}")
    return number


def export_generator(checkpoint: Checkpoint, out: Path) -> None:
    """Write the networks that samples need, with their config, as a folder that `--ckpt` takes.

    Raises:
        UserError: where `out` is there already.
    """
    if out.exists():
        raise UserError(f"`--out {out}` is there already: give a new folder")
    sampler, _ = load_sampler(checkpoint)
    averaged = sampler.objective.averaged
    stems = {name if name not in averaged else f"{name}.ema" for name in {*averaged, *sampler.networks_used()}}
    tensors = {stem: checkpoint.tensors(stem) for stem in sorted(stems)}
    if checkpoint.has("objective"):
        tensors["objective"] = checkpoint.tensors("objective")
    kept = ("step", "images", "shape", "data_sha256", "data_identity", "plugins")
    state = {key: checkpoint.state[key] for key in kept if key in checkpoint.state}
    files = {
        name: checkpoint.file(name).read_text(encoding="utf-8") for name in checkpoint.files if name.endswith(".py")
    }
    write(out, tensors=tensors, state=state, config=checkpoint.config_file.read_text(encoding="utf-8"), files=files)
