"""LPIPS (Zhang et al. 2018) on VGG16: torchmetrics' network, with the backbone's weights from a local file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gantk_eval.errors import WeightsError
from gantk_eval.extractors.inception import sha256_of
from gantk_eval.extractors.precision import exact_float32
from gantk_eval.paths import weight_folders

__all__ = ["BACKBONE_FILE", "LPIPS", "find_backbone"]

BACKBONE_FILE = "vgg16-397923af.pth"
SHA256_PREFIX = "397923af"
URL = f"https://download.pytorch.org/models/{BACKBONE_FILE}"
SMALLEST, LARGEST = 64, 256
"""Smaller images are enlarged to 64 (five poolings leave nothing of them), larger ones brought to 256 as StyleGAN does."""
BLOCK = 50


def find_backbone() -> Path | None:
    """torchvision's VGG16 weights in the folders that weights are looked for in; None where they are in none of them.

    There is no download: the file has 550 MB. Raises WeightsError where the file is another one than its name says.
    """
    for folder in weight_folders():
        path = folder / BACKBONE_FILE
        if path.is_file():
            found = sha256_of(path)
            if not found.startswith(SHA256_PREFIX):
                raise WeightsError(
                    f"{path} is not the published file: its sha256 begins with {found[:8]}, not {SHA256_PREFIX}; fetch it again"
                )
            return path
    return None


def missing() -> WeightsError:
    """The sentence for LPIPS asked for by name without its weights."""
    return WeightsError(
        f"LPIPS needs {BACKBONE_FILE} (sha256 begins with {SHA256_PREFIX}), which is not on this machine; download {URL} and put "
        "it into a folder named by $GANTK_WEIGHTS"
    )


class LPIPS:
    """The distance between images. `weights`: a state dict of torchvision's VGG16, of which `features.*` is used; the linear
    layers on top come with torchmetrics (version 0.1 of the authors').
    """

    name = "lpips-vgg16"
    precision = "fp32"
    resize = "none"
    """Set by whoever knows the images' size, for the protocol."""

    def __init__(self, weights: Path, *, device: Any = "cpu") -> None:
        import torch
        from torchmetrics.functional.image.lpips import _LPIPS

        self.weights_sha256 = sha256_of(weights)
        self._device = torch.device(device)
        with torch.random.fork_rng(devices=[]):  # its random initialisation must not move the caller's RNG
            network = _LPIPS(pretrained=True, net="vgg", pnet_rand=True)
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            # The slices keep the layers' numbers: features.5.weight is slice2.5.weight.
            numbered = {key.split(".", 1)[1]: key for key in network.net.state_dict()}
            layers = {
                numbered[key.removeprefix("features.")]: value for key, value in state.items() if "features." in key
            }
            network.net.load_state_dict(layers)
        except Exception as error:
            raise WeightsError(f"cannot load {weights}: {error}; give a state dict like {BACKBONE_FILE}") from error
        self._network = network.to(self._device).eval()

    @staticmethod
    def side(shape: tuple[int, int, int]) -> int | None:
        """The side to which images [H, W, C] are brought; None: as they are."""
        height, width, _ = shape
        if min(height, width) < SMALLEST:
            return SMALLEST
        return LARGEST if max(height, width) > LARGEST else None

    def distances(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """float64 [n] between images [n, H, W, 1 or 3], uint8 or floats in [0, 255]; grey is repeated to RGB."""
        import torch

        found = np.empty(len(first))
        self._network.resize = self.side(first.shape[1:])
        for start in range(0, len(first), BLOCK):
            pair = []
            for images in (first, second):
                batch = torch.from_numpy(np.ascontiguousarray(images[start : start + BLOCK])).to(self._device)
                batch = batch.permute(0, 3, 1, 2).float() / 127.5 - 1.0
                pair.append(batch.expand(-1, 3, -1, -1))
            with exact_float32(self._device):
                found[start : start + BLOCK] = self._network(*pair).flatten().cpu().numpy()
        return found
