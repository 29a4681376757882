"""Worlds with known answers, and weights in the real format."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gantk_eval.extractors.inception import InceptionExtractor
from gantk_eval.images import ArrayImages

JOIN = """
import sys, time
import torch.distributed as dist
rank, world = int(sys.argv[1]), int(sys.argv[2])
if world > 1:
    dist.init_process_group("gloo", init_method=sys.argv[3], world_size=world, rank=rank)
"""
LEAVE = """
if world > 1:
    dist.destroy_process_group()
    time.sleep(0.5)  # gloo's threads need the interpreter to let go of the last tensors: 2 of 25 ended in SIGABRT without
"""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inception fills up its blocks of 16, and tests have a few images. (`block_size(device)` of the module is not touched:
    who tests the blocks themselves puts it back.)"""
    monkeypatch.setattr("gantk_eval.extractors.inception.block_size", lambda device: 4)


@pytest.fixture
def in_processes(tmp_path: Path) -> Callable[..., list[tuple[int, str, str]]]:
    """`in_processes(code, world, cache)`: exit code, output and errors of each process; the code knows `rank` and `world`."""

    def run(code: str, world: int, cache: Path = tmp_path) -> list[tuple[int, str, str]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        environment = {**os.environ, "GANTK_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", JOIN + code + LEAVE, str(rank), str(world), address],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(world)
        ]  # fmt: skip
        try:
            outputs = [process.communicate(timeout=240) for process in processes]
        finally:
            for process in processes:
                process.kill()
        return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]

    return run


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
                module.weight.data *= 1.4
            if isinstance(module, torch.nn.BatchNorm2d):  # as training leaves it: nothing is 0 or 1
                module.weight.data.uniform_(0.7, 1.3)
                module.bias.data.normal_(0.0, 0.1)
                module.running_mean.normal_(0.0, 0.1)
                module.running_var.uniform_(0.7, 1.3)
        # Classes that differ between pictures, or the Inception Score would be 1 whatever the code did: a random network
        # gives all pictures nearly the same features, so the classes look at what is left beside their mean.
        coarse = torch.randint(0, 256, (8, 3, 4, 4)).float()
        blotches = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear").to(torch.uint8)
        with torch.no_grad():
            (features,) = network(blotches)
            scale = 20.0 / features.norm(dim=1).mean()  # about that of the published network
            features *= scale
            for name in (
                "branch1x1",
                "branch3x3_2a",
                "branch3x3_2b",
                "branch3x3dbl_3a",
                "branch3x3dbl_3b",
                "branch_pool",
            ):
                norm = getattr(network.Mixed_7c, name).bn
                norm.weight *= scale
                norm.bias *= scale
            network.fc.weight.data.normal_(0.0, 1.0)
            mean = features.mean(dim=0)
            network.fc.weight -= torch.outer(network.fc.weight @ mean, mean) / mean.square().sum()
            network.fc.weight *= 1.5 / (features @ network.fc.weight.T).std()
            network.fc.bias.normal_(0.0, 1.0)
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def inception(inception_weights: Path) -> InceptionExtractor:
    """The extractor with those weights, made once."""
    return InceptionExtractor(inception_weights, custom=True)
