"""Worlds with known answers, and weights in the real format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gantk_eval.images import ArrayImages


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits at 32×32, shuffled: uint8 [1797, 32, 32], int64 [1797]."""
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    scaled = (data.images / 16 * 255).astype(np.uint8)
    images = np.stack([np.array(Image.fromarray(x).resize((32, 32), Image.Resampling.BICUBIC)) for x in scaled])
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], data.target[order].astype(np.int64)


@pytest.fixture(scope="session")
def digit_sets(digits: tuple[np.ndarray, np.ndarray]) -> tuple[ArrayImages, ArrayImages, ArrayImages]:
    """Disjoint reference (1,000), held-out (400) and further real images (397), labelled."""
    images, labels = digits
    parts = (slice(0, 1000), slice(1000, 1400), slice(1400, None))
    reference, heldout, others = (ArrayImages(images[p], labels[p], name=f"digits {p.start}") for p in parts)
    return reference, heldout, others


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that outlives a test, for the classifier of the digits."""
    return tmp_path_factory.mktemp("shared-cache")


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded random state dict in torch-fidelity's format, scaled so that features differ between images."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.feature_extractor_inceptionv3 import torch as its_torch

    path = tmp_path_factory.mktemp("weights") / "random.pth"
    # Its constructor wants a file: it gets one with nothing in it, by way of a module that is not initialised from it.
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(its_torch, "load", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
        network = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path="none")
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    torch.save(network.state_dict(), path)
    return path
