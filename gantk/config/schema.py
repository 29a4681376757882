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
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from gantk.config.base import Section
from gantk.config.data_schema import AGREED_IN_PAIRS, BUILT_IN, SOURCES, DataConfig, ExtraDataConfig
from gantk.config.metric_names import MetricName

__all__ = [
    "AGREED_IN_PAIRS",
    "BUILT_IN",
    "SOURCES",
    "Config",
    "DataConfig",
    "ExtraDataConfig",
    "OptimizerSettings",
    "ScheduleConfig",
    "Section",
    "TrackingConfig",
]


class ScheduleConfig(Section):
    """A factor on the learning rate, driven by the images seen."""

    type: Literal["constant", "linear", "cosine"] = "constant"
    """`linear` and `cosine` go from 1 at `start_kimg` to `final` at `end_kimg`."""
    warmup_kimg: float = Field(0, ge=0)
    """Rise from 0 over the first so many thousand images."""
    start_kimg: float = Field(0, ge=0)
    """The thousand images at which `linear` and `cosine` begin to fall."""
    end_kimg: float | None = Field(None, gt=0)
    """Default: `train.kimg`."""
    final: float = Field(0.0, ge=0, le=1)
    """The factor at the end."""


class OptimizerSettings(Section):
    """What an optimiser takes. Each key may be set for all phases, and again for one under `phases`."""

    type: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    lr: float = Field(2e-4, gt=0)
    """The learning rate, before the schedule."""
    betas: tuple[float, float] = (0.5, 0.999)
    """`adam`, `adamw`. The first is 0.5 in DCGAN, against the usual 0.9."""
    eps: float = Field(1e-8, gt=0)
    """`adam`, `adamw`, `rmsprop`: added to the denominator."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """`sgd`, `rmsprop`."""
    nesterov: bool = False
    """`sgd`."""
    weight_decay: float = Field(0.0, ge=0)
    """Decay of the weights: decoupled in `adamw`, part of the gradient in the others."""
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
    """Keep images and weights in the memory format that convolutions are fastest in."""
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
    """A list such as `[fid, kid]`, see evaluation/README.md. Default: all that cost little, in Inception's features or the
    weights-free tier's."""
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
    """The project on Weights & Biases."""
    wandb_entity: str | None = None
    """The user or team on Weights & Biases. Default: the key's own."""
    tensorboard: bool = False
    """Also write TensorBoard files to the run folder (`pip install gantk[tensorboard]`)."""
    progress: bool = True
    """The progress bar, where stderr is a terminal; elsewhere a line now and then."""


class Config(Section):
    """A whole run. `gantk config --config FILE` prints one with every default filled in."""

    name: str
    """The run's name, and its folder's under `$GANTK_RUNS` (default `runs/`): letters, digits, `.`, `_`, `-`."""
    seed: int = Field(0, ge=0, lt=2**31)
    """The seed of everything random: weights, order of the images, z. The same config and seed give the same run."""
    plugins: tuple[str, ...] = ()
    """Modules to import first, by name or as the path of a .py file or package, relative to this file's folder: your own
    networks and objectives register themselves there. The run keeps a copy of their text."""
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
                "must be letters (a to z), digits, `.`, `_` and `-`, with a letter or a digit first and at most 128 in all, "
                f"because it names the run's folder, and is {value!r}" + (f": `{allowed}` would do" if allowed else "")
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
