"""What only a GPU can show; `make test-gpu`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import gantk
from gantk.runs import find_checkpoint
from gantk.sampling import load_sampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]
SHORT = ("train.kimg=0.256", "evaluate.every_kimg=99", "train.device=auto")  # the tiny config asks for the processor


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_run_on_the_gpu(precision: str, tiny: Path) -> None:
    run = gantk.train(tiny, *SHORT, f"train.precision={precision}", "name=run")
    recorded = json.loads((run.folder / "environment.json").read_text())
    assert recorded["device"].startswith("cuda")
    checkpoint = find_checkpoint(str(run.folder)).checkpoint
    images = [load_sampler(checkpoint, device)[0].images(np.arange(8)) for device in ("cuda", "cpu")]
    # Another order of summation moves a pixel by a grey level.
    assert np.abs(images[0].astype(int) - images[1]).max() <= 1
    assert images[0].std() > 0


@pytest.mark.parametrize("storage", ["memory", "disk", "stream"])
def test_batches_are_those_of_images_that_stay_on_the_gpu(storage: str, tiny: Path) -> None:
    from gantk.config import load_config
    from gantk.data import open_dataset

    stores = [
        open_dataset(load_config(tiny, [f"data.storage={kept}"]).data, device="cuda").train
        for kept in ("device", storage)
    ]
    rows = torch.arange(0, len(stores[0]), 7)
    batches = [store.fetch(rows) for store in stores]
    assert batches[0].device.type == "cuda"
    assert torch.equal(batches[0].cpu(), batches[1].cpu())
