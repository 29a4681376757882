"""Which extractor a user means: a name, or a file that is looked into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantk_eval.errors import UserError, WeightsError
from gantk_eval.extractors import Extractor
from gantk_eval.extractors.own_module import OwnModuleExtractor, name_of_file
from gantk_eval.extractors.state_dicts import kind_of, read_state_dict
from gantk_eval.extractors.vision_transformer import VisionTransformerExtractor, family_of
from gantk_eval.extractors.weights import find_transformer

__all__ = ["NAMES", "Choice", "build_extractor", "choose_extractor"]

NAMES = ("inception", "dinov2", "clip", "classifier", "pixel_pca")
"""Extractors that a name is enough for."""


@dataclass(frozen=True)
class Choice:
    """`name`: under which metrics ask for it (`fd_<name>`); `file`: its weights or its program, where one was named."""

    name: str
    file: Path | None = None
    own: bool = False
    """Whether the file is a program: TorchScript or torch.export."""


def choose_extractor(wanted: str | Path) -> Choice:
    """What `--extractor` says: one of `NAMES`; weights of Inception, DINOv2 or CLIP, which are known by their names; or a
    TorchScript or torch.export file. Only OpenAI's CLIP comes as TorchScript and is taken for its weights.

    Raises UserError for a name that is none and no file, WeightsError for a file that is nothing of the kind.
    """
    if str(wanted) in NAMES:
        return Choice(str(wanted))
    path = Path(wanted).expanduser()
    if not path.is_file():
        raise UserError(f"there is no extractor {wanted}; choose from {', '.join(NAMES)}, or name a file that is there")
    kind = kind_of(path)
    if kind == "export":
        return _own(path)
    if kind == "unknown":
        raise WeightsError(
            f"{path} is neither weights (.pth, .pt, .safetensors) nor a file of torch.jit.save or torch.export.save"
        )
    state = read_state_dict(path)
    family = family_of(state)
    if family is not None:
        return Choice(family, path)
    if kind == "torchscript":
        return _own(path)
    if "Conv2d_1a_3x3.conv.weight" in state and "fc.weight" in state:
        return Choice("inception", path)
    raise WeightsError(
        f"{path} holds tensors under names that are not Inception's, DINOv2's or CLIP's; save the network itself with "
        "torch.jit.save or torch.export.save"
    )


def _own(path: Path) -> Choice:
    return Choice(name_of_file(path), path, own=True)


def build_extractor(choice: Choice, *, shape: tuple[int, int], device: Any) -> Extractor:
    """DINOv2, CLIP or a module of the user's own. `shape`: height and width of the images."""
    if choice.own:
        assert choice.file is not None
        return OwnModuleExtractor(choice.file, shape=shape, device=device)
    return VisionTransformerExtractor(choice.file or find_transformer(choice.name), device=device)
