"""Plain float32 for a while: whatever precision the training loop around an evaluation has chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["exact_float32"]


@contextmanager
def exact_float32(device: Any) -> Iterator[None]:
    """No gradients, no autocast, no TF32, no cuDNN trial runs; everything is put back afterwards."""
    import torch

    device = torch.device(device)
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark)
    matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = False
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
