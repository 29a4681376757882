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
    cudnn = torch.backends.cudnn
    # The matmul precision also covers CPUs, where `medium` multiplies float32 matrices in bfloat16.
    before = (torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark)
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = cudnn.benchmark = False
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]
