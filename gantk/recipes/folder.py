"""A recipe for a user's own images: chosen by how many there are, how large they are, and what classes they have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gantk_eval.errors import DataError

LOOKED_AT = 200
"""Images whose sizes are looked at; a set has thousands."""
LARGEST = 64
"""Pixels a side: what DCGAN was made for."""
SMALL_SET = 20_000
"""Fewer images than these are memorised by a discriminator that sees them as they are."""
OF_A_CLASS = 100
"""Images that the smallest class needs for a generator that takes a class."""
MOST_CLASSES = 200
JUDGED = 1500
"""Held-out images with which a verdict can be `ok`."""
_TAKEN = ("use_labels", "image_column", "label_column", "heldout_path", "heldout_fraction", "on_bad_image")


@dataclass(frozen=True)
class Facts:
    """The properties of a set of images that a recipe is chosen by."""

    where: str
    count: int
    side: int
    """The images' shorter side in pixels, the median."""
    uniform: bool
    """True where all that were looked at are squares of one size."""
    grey: bool
    classes: tuple[int, ...]
    """The number of images in each class; empty where there are none."""


@dataclass(frozen=True)
class Plan:
    """The recipe for a set of images."""

    recipe: str
    overrides: tuple[str, ...]
    reasons: tuple[str, ...]
    """For people, a line each."""


def place_of(path: str) -> list[str]:
    """The overrides that lead to images: the kind of source, and an absolute path."""
    source = {".parquet": "parquet", ".npz": "npz"}.get(Path(path).suffix.lower(), "folder")
    return [f"data.source={source}", f"data.path={_quoted(str(Path(path).expanduser().absolute()))}"]


def name_of(path: str) -> str:
    """A run's name for what is at a path: the last part, in the letters that names have."""
    stem = Path(path).expanduser().absolute()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem.stem if stem.suffix in (".parquet", ".npz") else stem.name)
    return name.strip("._-")[:64] or "images"


def look_at(path: str, settings: Mapping[str, Any]) -> Facts:
    """Counts the images at a path, and looks at the sizes of some.

    Args:
        path: a folder, a parquet file or an npz file.
        settings: of the section `data`, such as `use_labels`.

    Raises:
        DataError: where there is nothing to look at.
    """
    from gantk_eval.images import is_grey_mode, read_header

    from gantk.config.schema import DataConfig
    from gantk.data.sources import open_sources

    source_name = place_of(path)[0].partition("=")[2]
    taken = {key: value for key, value in settings.items() if key in _TAKEN}
    absolute = str(Path(path).expanduser().absolute())
    source, _ = open_sources(
        DataConfig.model_validate({"source": source_name, "path": absolute, "resolution": 8, **taken})
    )
    found: list[tuple[int, int, bool]] = []
    for index in np.unique(np.linspace(0, len(source) - 1, LOOKED_AT).astype(int)):
        item = source.item(int(index))
        if isinstance(item, np.ndarray):
            found.append((item.shape[0], item.shape[1], item.shape[2] == 1))
            continue
        try:
            header = read_header(item, name=source.locate(int(index)))
        except DataError:
            # Damaged images are met, and named, when the data is opened.
            continue
        found.append((header.height, header.width, is_grey_mode(header.mode)))
    if not found:
        raise DataError(
            f"none of the images that were looked at in {path} can be read; `gantk doctor --data {path}` names them"
        )
    sizes = {(height, width) for height, width, _ in found}
    only = next(iter(sizes))
    return Facts(
        where=source.description,
        count=len(source),
        side=int(np.median([min(height, width) for height, width, _ in found])),
        uniform=len(sizes) == 1 and only[0] == only[1],
        grey=all(grey for *_, grey in found),
        classes=() if source.labels is None else tuple(Counter(source.labels.tolist()).values()),
    )


def plan(facts: Facts, path: str) -> Plan:
    """The recipe and its settings for a set of images.

    Raises:
        DataError: for too few images to train on.
    """
    held_out = min(0.3, max(0.1, JUDGED / facts.count))
    training = facts.count - round(held_out * facts.count)
    if training < 8:
        raise DataError(
            f"{facts.where} holds {facts.count} images: some thousands make a good set, and eight are the least"
        )
    side = _resolution(facts)
    batch = min(64, 2 ** int(np.log2(training / 2)))
    kimg = float(f"{min(max(0.05 * training, 200), 5000):.2g}")
    small = training < SMALL_SET
    augment = ("translation",) if facts.grey else ("color", "translation", "cutout")
    conditional = 2 <= len(facts.classes) <= MOST_CLASSES and min(facts.classes) >= OF_A_CLASS
    recipe = "quickstart" if side <= 32 else "dcgan_folder"
    kind = "conditional_dcgan" if conditional else "dcgan"
    overrides = (
        *place_of(path), f"data.resolution={side}", f"data.heldout_fraction={held_out:.3g}", "data.flip=false",
        f"network.type={kind}", "network.kernel_size=4", "network.hidden_dim=0", f"network.width={32 if facts.grey else 64}",
        f"objective.augment=[{', '.join(augment) if small else ''}]", f"train.batch_size={batch}", f"train.kimg={kimg:g}",
        # The quickstart's learning rate is for its own small networks.
        *(() if facts.grey or recipe != "quickstart" else ("optimizer.lr=4e-4",)),
        f"checkpoint.every_kimg={kimg / 4:g}", f"samples.every_kimg={kimg / 20:g}", f"evaluate.every_kimg={kimg / 4:g}",
    )  # fmt: skip
    return Plan(
        recipe, overrides, tuple(_reasons(facts, recipe, side, held_out, training, batch, kimg, conditional, augment))
    )


def _resolution(facts: Facts) -> int:
    from gantk.errors import ConfigError
    from gantk.networks.dcgan import base_and_levels

    if facts.uniform and facts.side <= LARGEST:
        try:
            base_and_levels(facts.side)
        except ConfigError:
            pass
        else:
            return facts.side
    return max((side for side in (16, 32, LARGEST) if side <= facts.side), default=16)


def _reasons(
    facts: Facts,
    recipe: str,
    side: int,
    held_out: float,
    training: int,
    batch: int,
    kimg: float,
    conditional: bool,
    augment: Sequence[str],
) -> list[str]:
    colour = "grey" if facts.grey else "colour"
    size = (
        f"all {facts.side}×{facts.side}"
        if facts.uniform
        else f"half of them {facts.side} pixels or more on the shorter side"
    )
    lines = [f"{facts.where}: {facts.count:,} images, {colour}, {size}"]
    game = "relativistic pairs with R1" if recipe == "quickstart" else "DCGAN with the non-saturating loss"
    lines.append(f"recipe {recipe} ({game}) at {side}×{side}, the largest size up to {LARGEST} that these images fill")
    if conditional:
        lines.append(
            f"a class-conditional generator: {len(facts.classes)} classes, the smallest of {min(facts.classes):,} images"
        )
    elif len(facts.classes) > 1:
        why = (
            f"{len(facts.classes)} classes are more than {MOST_CLASSES}"
            if len(facts.classes) > MOST_CLASSES
            else f"the smallest of the {len(facts.classes)} classes has {min(facts.classes):,} images, and {OF_A_CLASS} are wanted"
        )
        lines.append(
            f"an unconditional generator, because {why}; the classes still count in the scores and the verdict"
        )
    else:
        lines.append("an unconditional generator, because there are no classes (sub-folders would be taken as classes)")
    lines.append(
        f"batch size {batch}, {kimg:g} kimg: {kimg * 1000 / training:,.0f} passes over {training:,} training images; "
        f"{held_out:.0%} of the images are held out to judge by"
    )
    if training < SMALL_SET:
        lines.append(
            f"DiffAugment ({', '.join(augment)}), because without it a discriminator memorises fewer than {SMALL_SET:,} images"
        )
    lines.append("images are not mirrored: where left and right may be exchanged, add data.flip=true")
    return lines


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
