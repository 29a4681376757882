"""Where weight files lie: a file that is named, $GANTK_WEIGHTS, and the caches of those who publish them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from gantk_eval.errors import WeightsError
from gantk_eval.paths import weight_folders

__all__ = ["find_transformer", "sha256_of"]

PUBLISHED = {
    "dinov2": ("dinov2_vitl14_pretrain.pth", "dinov2_vitb14_pretrain.pth", "dinov2_vits14_pretrain.pth"),
    "clip": ("ViT-B-32.pt", "ViT-L-14.pt"),
}
"""By their names in the authors' repositories; the first that is there is taken."""
HUB = {
    "dinov2": ("facebook/dinov2-large", "facebook/dinov2-base", "facebook/dinov2-small"),
    "clip": ("openai/clip-vit-base-patch32", "openai/clip-vit-large-patch14"),
}
ADDRESSES = {
    "dinov2": "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    "clip": "https://huggingface.co/openai/clip-vit-base-patch32 (model.safetensors with its config.json)",
}


def sha256_of(path: Path) -> str:
    """sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _hub_folder() -> Path:
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    home = os.environ.get("HF_HOME")
    base = Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return base.expanduser() / "hub"


def find_transformer(family: str) -> Path:
    """The weights of `dinov2` or `clip`: `$GANTK_DINOV2_WEIGHTS` or `$GANTK_CLIP_WEIGHTS`, else a published file in
    `$GANTK_WEIGHTS`, torch.hub's cache, CLIP's own (~/.cache/clip), or the Hugging Face cache. Nothing is downloaded.

    Raises WeightsError, with the file's name, where to get it and where to put it.
    """
    variable = f"GANTK_{family.upper()}_WEIGHTS"
    chosen = os.environ.get(variable)
    if chosen:
        path = Path(chosen).expanduser()
        if not path.is_file():
            raise WeightsError(f"${variable} names {path}, and there is no file; name {family}'s weights")
        return path
    folders = [*weight_folders(), Path("~/.cache/clip").expanduser()]
    for name in PUBLISHED[family]:
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
    for repository in HUB[family]:
        snapshots = _hub_folder() / f"models--{repository.replace('/', '--')}" / "snapshots"
        for path in sorted(snapshots.glob("*/model.safetensors")):
            if path.is_file():
                return path
    where = os.environ.get("GANTK_WEIGHTS") or "a folder named by $GANTK_WEIGHTS"
    raise WeightsError(
        f"{family} needs {' or '.join(PUBLISHED[family])}, which is not on this machine; get {ADDRESSES[family]} and put it "
        f"into {where}, or name a file with --extractor FILE or ${variable}"
    )
