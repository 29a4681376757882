"""DINOv2 and CLIP image encoders from published weights: one plain vision transformer (Dosovitskiy et al. 2021).

DINOv2 (Oquab et al. 2024): the class token after the last layer norm, as Stein et al. 2023 use it for Fréchet distances.
CLIP (Radford et al. 2021): the projected image embedding, not normalised, as Kynkäänniemi et al. 2023 use it. Weights are a
state dict in the layout of the authors' repositories, of OpenCLIP, or of Hugging Face's transformers, as .pth, .pt or
.safetensors; OpenAI's own files are TorchScript archives, of which only the tensors are taken.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gantk_eval.errors import WeightsError
from gantk_eval.extractors.blocks import block_size, in_blocks
from gantk_eval.extractors.precision import exact_float32
from gantk_eval.extractors.resizing import bicubic
from gantk_eval.extractors.state_dicts import read_state_dict
from gantk_eval.extractors.weights import sha256_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["VisionTransformerExtractor", "encode", "family_of", "plain_layout"]

MEANS = {"dinov2": (0.485, 0.456, 0.406), "clip": (0.48145466, 0.4578275, 0.40821073)}
DEVIATIONS = {"dinov2": (0.229, 0.224, 0.225), "clip": (0.26862954, 0.26130258, 0.27577711)}
NORM_EPSILON = {"dinov2": 1e-6, "clip": 1e-5}
DINO_SIDE = 224  # pixels; its position embeddings are for 518, and are interpolated as the authors do
HEAD_WIDTH = 64
WIDTHS = {"dinov2": {384: "s", 768: "b", 1024: "l", 1536: "g"}, "clip": {768: "b", 1024: "l"}}

_BLOCK = r"(?P<block>\d+)\."
# Each layout's names -> ours, for a block (`blocks.N.` in front) and outside of blocks.
_DINO_BLOCK = {
    "norm1": "norm1",
    "attn.qkv": "qkv",
    "attn.proj": "out",
    "ls1.gamma": "scale1",
    "norm2": "norm2",
    "mlp.fc1": "up",
    "mlp.fc2": "down",
    "mlp.w12": "gated",
    "mlp.w3": "down",
    "ls2.gamma": "scale2",
}
_DINO = {
    "cls_token": "class",
    "pos_embed": "position",
    "register_tokens": "registers",
    "patch_embed.proj": "patch",
    "norm": "norm",
}
_HUB_DINO_BLOCK = {
    "norm1": "norm1",
    "attention.attention.query": "q",
    "attention.attention.key": "k",
    "attention.attention.value": "v",
    "attention.output.dense": "out",
    "layer_scale1.lambda1": "scale1",
    "norm2": "norm2",
    "mlp.fc1": "up",
    "mlp.fc2": "down",
    "mlp.weights_in": "gated",
    "mlp.weights_out": "down",
    "layer_scale2.lambda1": "scale2",
}
_HUB_DINO = {
    "embeddings.cls_token": "class",
    "embeddings.position_embeddings": "position",
    "embeddings.register_tokens": "registers",
    "embeddings.patch_embeddings.projection": "patch",
    "layernorm": "norm",
}
_CLIP_BLOCK = {
    "ln_1": "norm1",
    "attn.in_proj_weight": "qkv.weight",
    "attn.in_proj_bias": "qkv.bias",
    "attn.out_proj": "out",
    "ln_2": "norm2",
    "mlp.c_fc": "up",
    "mlp.c_proj": "down",
}
_CLIP = {
    "class_embedding": "class",
    "positional_embedding": "position",
    "proj": "projection",
    "conv1": "patch",
    "ln_pre": "before",
    "ln_post": "norm",
}
_HUB_CLIP_BLOCK = {
    "layer_norm1": "norm1",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.out_proj": "out",
    "layer_norm2": "norm2",
    "mlp.fc1": "up",
    "mlp.fc2": "down",
}
_HUB_CLIP = {
    "embeddings.class_embedding": "class",
    "embeddings.position_embedding.weight": "position",
    "embeddings.patch_embedding": "patch",
    "pre_layrnorm": "before",
    "post_layernorm": "norm",
}


@dataclass(frozen=True)
class _Layout:
    family: str
    mark: str
    """A key by which the layout is known."""
    prefix: str
    blocks: str
    block_names: dict[str, str]
    names: dict[str, str]


_LAYOUTS = (
    _Layout("dinov2", "blocks.0.attn.qkv.weight", "", "blocks.", _DINO_BLOCK, _DINO),
    _Layout(
        "dinov2", "encoder.layer.0.attention.attention.query.weight", "", "encoder.layer.", _HUB_DINO_BLOCK, _HUB_DINO
    ),
    _Layout("clip", "visual.class_embedding", "visual.", "transformer.resblocks.", _CLIP_BLOCK, _CLIP),
    _Layout(
        "clip",
        "vision_model.embeddings.class_embedding",
        "vision_model.",
        "encoder.layers.",
        _HUB_CLIP_BLOCK,
        _HUB_CLIP,
    ),
)


def _layout_of(state: dict[str, Any]) -> _Layout | None:
    return next((layout for layout in _LAYOUTS if layout.mark in state), None)


def family_of(state: dict[str, Any]) -> str | None:
    """`dinov2` or `clip`, by the names in a state dict; None where it is neither."""
    layout = _layout_of(_unwrapped(state))
    return None if layout is None else layout.family


def _unwrapped(state: dict[str, Any]) -> dict[str, Any]:
    """Without the outer name that some files put in front of every key."""
    for outer in ("dinov2.", "module.", "backbone."):
        if state and all(key.startswith(outer) for key in state):
            return {key.removeprefix(outer): value for key, value in state.items()}
    return state


def _renamed(name: str, names: dict[str, str]) -> str | None:
    if name in names:
        return names[name]
    stem, _, kind = name.rpartition(".")
    return f"{names[stem]}.{kind}" if stem in names and kind in ("weight", "bias") else None


def plain_layout(state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """`dinov2` or `clip`, and the image encoder's tensors, float32, under this module's own names.

    Raises ValueError where the layout is not known or a tensor is missing.
    """
    import torch

    state = _unwrapped(state)
    layout = _layout_of(state)
    if layout is None:
        raise ValueError("its names are those of no DINOv2 or CLIP state dict")
    plain: dict[str, Tensor] = {}
    inside = re.compile(re.escape(layout.prefix + layout.blocks) + _BLOCK + r"(?P<name>.+)")
    for key, value in state.items():
        match = inside.fullmatch(key)
        if match:
            name = _renamed(match["name"], layout.block_names)
            name = None if name is None else f"blocks.{match['block']}.{name}"
        else:
            name = _renamed(key.removeprefix(layout.prefix), layout.names) if key.startswith(layout.prefix) else None
        if name is not None:
            plain[name] = value.detach().float()
    if "visual_projection.weight" in state:  # transformers keep it as a layer, OpenAI as a matrix
        plain["projection"] = state["visual_projection.weight"].detach().float().T.contiguous()
    depth = 1 + max((int(key.split(".")[1]) for key in plain if key.startswith("blocks.")), default=-1)
    for number in range(depth):
        head = f"blocks.{number}."
        if f"{head}q.weight" in plain:
            for kind in ("weight", "bias"):
                three = [plain.pop(f"{head}{part}.{kind}") for part in "qkv" if f"{head}{part}.{kind}" in plain]
                plain[f"{head}qkv.{kind}"] = torch.cat(three)
    for name in ("class", "position", "registers"):
        if name in plain:
            plain[name] = plain[name].reshape(-1, plain[name].shape[-1])
    _check(layout.family, plain, depth)
    return layout.family, plain


def _check(family: str, plain: dict[str, Tensor], depth: int) -> None:
    up = "gated" if "blocks.0.gated.weight" in plain else "up"
    layers = ["norm1", "qkv", "out", "norm2", up, "down"]
    needed = [f"blocks.{n}.{layer}.{kind}" for n in range(depth) for layer in layers for kind in ("weight", "bias")]
    needed += ["class", "position", "patch.weight", "norm.weight", "norm.bias"]
    needed += ["before.weight", "before.bias", "projection"] if family == "clip" else ["patch.bias"]
    missing = [name for name in needed if name not in plain]
    if missing or not depth:
        raise ValueError(f"it lacks {missing[0] if missing else 'every block'} (by gantk_eval's names)")
    width, grid = plain["class"].shape[-1], len(plain["position"]) - 1
    if width not in WIDTHS[family]:
        raise ValueError(f"it is {width} wide; known are {', '.join(map(str, WIDTHS[family]))}")
    if round(grid**0.5) ** 2 != grid:
        raise ValueError(f"its {grid} positions are no square")


def _positions(plain: dict[str, Tensor], grid: int, family: str) -> Tensor:
    """Position embeddings [1 + grid², width] for a grid of patches, by the authors' interpolation."""
    import torch
    import torch.nn.functional as F

    position = plain["position"]
    native = round((len(position) - 1) ** 0.5)
    if native == grid:
        return position
    square = position[1:].reshape(1, native, native, -1).permute(0, 3, 1, 2)
    if "registers" in plain or family == "clip":
        square = F.interpolate(square, size=(grid, grid), mode="bicubic", antialias=True)
    else:
        # Without registers the authors scale by (grid + 0.1) / native, and the released models expect that.
        scale = (grid + 0.1) / native
        square = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([position[:1], square.permute(0, 2, 3, 1).reshape(grid * grid, -1)])


def encode(plain: dict[str, Tensor], pixels: Tensor, *, family: str, quick_gelu: bool) -> Tensor:
    """float32 [n, 3, S, S], normalised, S whole patches -> [n, d]: DINOv2's class token, or CLIP's embedding.

    `plain`: of `plain_layout`. `quick_gelu`: x σ(1.702 x), OpenAI's activation, instead of GELU.
    """
    import torch
    import torch.nn.functional as F

    epsilon = NORM_EPSILON[family]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], plain[f"{name}.weight"], plain[f"{name}.bias"], epsilon)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, plain[f"{name}.weight"], plain.get(f"{name}.bias"))

    patches = F.conv2d(pixels, plain["patch.weight"], plain.get("patch.bias"), stride=plain["patch.weight"].shape[-1])
    grid = patches.shape[-1]
    x = torch.cat([plain["class"].expand(len(pixels), 1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    x = x + _positions(plain, grid, family)
    if "registers" in plain:
        x = torch.cat([x[:, :1], plain["registers"].expand(len(pixels), -1, -1), x[:, 1:]], dim=1)
    if "before.weight" in plain:
        x = norm(x, "before")
    count, length, width = x.shape
    number = 0
    while f"blocks.{number}.qkv.weight" in plain:
        head = f"blocks.{number}."
        qkv = linear(norm(x, f"{head}norm1"), f"{head}qkv")
        q, k, v = qkv.reshape(count, length, 3, width // HEAD_WIDTH, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(count, length, width)
        x = x + linear(mixed, f"{head}out") * plain.get(f"{head}scale1", 1.0)
        inner = norm(x, f"{head}norm2")
        if f"{head}gated.weight" in plain:
            gate, value = linear(inner, f"{head}gated").chunk(2, dim=-1)
            inner = F.silu(gate) * value
        else:
            inner = linear(inner, f"{head}up")
            inner = inner * torch.sigmoid(1.702 * inner) if quick_gelu else F.gelu(inner)
        x = x + linear(inner, f"{head}down") * plain.get(f"{head}scale2", 1.0)
        number += 1
    token = norm(x[:, 0], "norm")
    return token @ plain["projection"] if "projection" in plain else token


def _activation(weights: Path) -> str:
    """CLIP's activation: OpenAI's QuickGELU, unless a config beside the file says otherwise."""
    for name in ("config.json", "open_clip_config.json"):
        path = weights.parent / name
        try:
            text = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (OSError, ValueError):
            continue
        if name == "open_clip_config.json" and text:
            model = text.get("model_cfg", text)
            return "quick_gelu" if model.get("quick_gelu") else "gelu"
        said = (text.get("vision_config") or {}).get("hidden_act") or text.get("hidden_act")
        if said:
            return str(said)
    return "quick_gelu"


class VisionTransformerExtractor:
    """DINOv2 (features [n, 384 … 1536]) or CLIP (features [n, 512 or 768]), as the weights file says.

    The whole picture is brought to the network's square by antialiased bicubic interpolation (nothing is cropped), and grey
    is repeated to RGB. `name`: `dinov2-vitl14`, `clip-vitb32`; for CLIP with another activation than QuickGELU, which only a
    `config.json` or `open_clip_config.json` beside the file can tell, `clip-vitb32-gelu`.
    Raises WeightsError where the file is not such a state dict.
    """

    precision = "fp32"

    def __init__(self, weights: Path, *, device: Any = "cpu") -> None:
        import torch

        self._device = torch.device(device)
        try:
            self.family, plain = plain_layout(read_state_dict(weights))
        except ValueError as error:
            raise WeightsError(f"cannot use {weights}: {error}; give DINOv2's or CLIP's published weights") from error
        width, patch = plain["class"].shape[-1], plain["patch.weight"].shape[-1]
        self.name = f"{self.family}-vit{WIDTHS[self.family][width]}{patch}"
        self._quick_gelu = False
        if "registers" in plain:
            self.name += f"-reg{len(plain['registers'])}"
        if self.family == "clip":
            activation = _activation(weights)
            self._quick_gelu = activation == "quick_gelu"
            if activation not in ("quick_gelu", "gelu"):
                raise WeightsError(
                    f"cannot use {weights}: its config names the activation {activation}; known are gelu and quick_gelu"
                )
            self.name += "" if self._quick_gelu else "-gelu"
        grid = round((len(plain["position"]) - 1) ** 0.5)
        self._side = grid * patch if self.family == "clip" else DINO_SIDE // patch * patch
        self.resize = f"bicubic-antialias-{self._side}"
        self.dims = plain["projection"].shape[1] if self.family == "clip" else width
        self.weights_sha256 = sha256_of(weights)
        self._plain = {name: value.to(self._device) for name, value in plain.items()}
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(MEANS[self.family], device=self._device).reshape(shape)
        self._deviation = torch.tensor(DEVIATIONS[self.family], device=self._device).reshape(shape)

    def features(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 1 or 3] -> float32 [n, dims]."""
        return in_blocks(images, block_size(self._device), self._run, fill=True)

    def _run(self, images: np.ndarray) -> np.ndarray:
        import torch

        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self._device).permute(0, 3, 1, 2)
        with exact_float32(self._device):
            pixels = bicubic(batch.float(), self._side) / 255.0
            pixels = (pixels.expand(-1, 3, -1, -1) - self._mean) / self._deviation
            return encode(self._plain, pixels, family=self.family, quick_gelu=self._quick_gelu).cpu().numpy()

    def logits(self, features: np.ndarray) -> None:
        """None: there are no classes here."""
        return
