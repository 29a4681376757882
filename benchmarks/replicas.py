"""Several seeds of a small GAN in one run: `network.type: replicated_mlp`, a plugin that the trainer knows nothing of.

Its networks are `network.replicas` independent fully connected networks whose weights are stacked, so that a step is one launch
of each kernel for all of them: networks this small leave a GPU idle otherwise. A batch holds the replicas' batches one after the
other. Losses are means over it, so that a replica's gradient is 1/replicas of what it would be alone, which Adam does not
notice if its eps is divided by as much (`optimizer.eps`).

The replicas see other points of the same stream, other z, and begin with other weights; a checkpoint of one of them, as if it
had been trained alone, is what `split` takes out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from gantk.config import dump_yaml
from gantk.networks import NETWORKS
from gantk.networks.mlp import MLP, Maxout, MLPConfig, MLPDiscriminator, MLPGenerator
from gantk.plugins import config_of
from gantk.training import checkpoint as checkpoints
from gantk.training.checkpoint import Checkpoint


class ReplicatedMLPConfig(MLPConfig):
    type: Literal["replicated_mlp"] = "replicated_mlp"  # type: ignore[assignment]
    replicas: int = Field(3, ge=1)


def _stacked(tensors: list[Tensor]) -> Tensor:
    return torch.stack([tensor.detach() for tensor in tensors])


class StackedLinear(nn.Module):
    """[S, N, inputs] → [S, N, outputs], each of S with its own weights."""

    def __init__(self, copies: list[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(_stacked([copy.weight for copy in copies]))
        has_bias = copies[0].bias is not None
        self.bias = nn.Parameter(_stacked([copy.bias for copy in copies])) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.transpose(1, 2)
        return torch.bmm(x, weight) if self.bias is None else torch.baddbmm(self.bias[:, None], x, weight)


class StackedBatchNorm(nn.Module):
    """[S, N, units] → the same, normalised over N, for each of S apart."""

    def __init__(self, copies: list[nn.BatchNorm1d]) -> None:
        super().__init__()
        self.eps, self.momentum = copies[0].eps, copies[0].momentum
        self.weight = nn.Parameter(_stacked([copy.weight for copy in copies]))
        self.bias = nn.Parameter(_stacked([copy.bias for copy in copies]))
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, _stacked([getattr(copy, name) for copy in copies]))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            cast("Tensor", self.num_batches_tracked).add_(1)
        replicas, rows, units = x.shape
        mean, variance = cast("Tensor", self.running_mean).view(-1), cast("Tensor", self.running_var).view(-1)
        side_by_side = x.transpose(0, 1).reshape(rows, replicas * units)
        normal = F.batch_norm(
            side_by_side,
            mean,
            variance,
            self.weight.flatten(),
            self.bias.flatten(),
            self.training,
            self.momentum or 0.0,
            self.eps,
        )
        return normal.view(rows, replicas, units).transpose(0, 1)


class StackedMaxout(nn.Module):
    def __init__(self, copies: list[Maxout]) -> None:
        super().__init__()
        self.units, self.pieces = copies[0].units, copies[0].pieces
        self.linear = StackedLinear([copy.linear for copy in copies])

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).view(*x.shape[:2], self.units, self.pieces).amax(3)


_STACKED: dict[type[nn.Module], Any] = {
    nn.Linear: StackedLinear,
    nn.BatchNorm1d: StackedBatchNorm,
    Maxout: StackedMaxout,
}


def _stack_layers(copies: list[nn.Sequential]) -> nn.Sequential:
    layers = []
    for same in zip(*copies, strict=True):
        kind = _STACKED.get(type(same[0]))
        layers.append(same[0] if kind is None else kind(list(same)))
    return nn.Sequential(*layers)


class _Replicated(nn.Module):
    """Takes the replicas' rows one after the other, [S·N, …], and gives theirs so. A batch that does not divide, as samples to
    look at may not, is filled up in evaluation mode, and refused in training."""

    def __init__(self, replicas: int) -> None:
        super().__init__()
        self.replicas = replicas

    def split_rows(self, x: Tensor) -> Tensor:
        """[R, D] → [S, N, D]."""
        missing = -len(x) % self.replicas
        if missing:
            if self.training:
                raise ValueError(f"{len(x)} rows do not divide among {self.replicas} replicas")
            x = torch.cat([x, x[:1].expand(missing, -1)])
        return x.view(self.replicas, -1, x.shape[1])


class ReplicatedGenerator(_Replicated):
    def __init__(self, copies: list[MLPGenerator]) -> None:
        super().__init__(len(copies))
        self.shape = copies[0].shape
        self.layers = _stack_layers([copy.layers for copy in copies])

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        samples: Tensor = self.layers(self.split_rows(z)).reshape(-1, *self.shape)
        return samples[: len(z)]


class ReplicatedDiscriminator(_Replicated):
    def __init__(self, copies: list[MLPDiscriminator]) -> None:
        super().__init__(len(copies))
        self.layers = _stack_layers([copy.layers for copy in copies])
        self.logit = StackedLinear([copy.logit for copy in copies])

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        logits: Tensor = self.logit(self.layers(self.split_rows(x.flatten(1)))).flatten()
        return logits[: len(x)]


@NETWORKS.register("replicated_mlp")
class ReplicatedMLP(MLP):
    Config = ReplicatedMLPConfig

    def generator(self) -> nn.Module:
        made = [MLPGenerator(self.config, self.channels, self.resolution) for _ in range(self.config.replicas)]
        return ReplicatedGenerator(made)

    def discriminator(self) -> nn.Module:
        made = [MLPDiscriminator(self.config, self.channels, self.resolution) for _ in range(self.config.replicas)]
        return ReplicatedDiscriminator(made)


def split(checkpoint: Checkpoint, folder: Path) -> list[Path]:
    """The generators of a checkpoint's replicas as exported folders `folder/0`, `folder/1`, …, which `--ckpt` takes."""
    config = config_of(checkpoint)
    section: Any = config.network
    plain = MLPConfig.model_validate(section.model_dump(exclude={"type", "replicas"}))
    text = dump_yaml(config.model_copy(update={"network": plain, "plugins": ()}))
    stacked = checkpoint.tensors("generator.ema")
    state = {key: checkpoint.state[key] for key in ("step", "images", "shape", "data_sha256", "data_identity")}
    made = []
    for number in range(section.replicas):
        # Counts of batches are one for all.
        own = {name: tensor[number].clone() if tensor.dim() else tensor for name, tensor in stacked.items()}
        checkpoints.write(folder / str(number), tensors={"generator.ema": own}, state=state, config=text)
        made.append(folder / str(number))
    return made
