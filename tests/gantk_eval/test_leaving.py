"""Whoever asks to stop on one rank ends the evaluation on all, while it extracts and while a classifier is trained."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

WORKER = """
import sys, time
import numpy as np
import torch.distributed as dist
from gantk_eval import ArrayImages, Evaluator, distributed
from gantk_eval.extractors import classifier

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=sys.argv[2], world_size=2, rank=rank)
generator = np.random.default_rng(0)
labels = generator.integers(0, 3, 400)
pixels = (labels[:, None, None] * 80 + generator.integers(0, 60, (400, 8, 8))).astype(np.uint8)
distributed.CHECK_SECONDS = 0.0
classifier.STEPS = {1: 10**9, 3: 10**9}  # it would never end by itself
read = 0

class Counted(ArrayImages):
    def read(self, indices):
        global read
        read += len(indices)
        return super().read(indices)

asked = 0

def check():
    global asked
    asked += 1
    if rank == who and asked > 5:
        raise RuntimeError("asked to stop")

for who in (0, 1):
    for images, options in (
        (ArrayImages(pixels, labels), {}),
        (Counted(pixels), {"metrics": ["fd_pixel_pca"], "collapse": False, "batch_size": 16}),
    ):
        asked = read = 0
        try:
            Evaluator(images, check=check, accuracy_floor=0.0, **options).evaluate(images)
        except RuntimeError as error:
            # The principal components are of all the reference, read by the first rank alone.
            print(who, type(error).__name__, error, read % 400)
# They are still in step.
print(distributed.any_rank(False))
"""


def test_all_ranks_leave_together(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    environment = {**os.environ, "GANTK_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), address],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=100) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for out, err in outputs:
        lines = out.splitlines()
        assert len(lines) == 5, err
        assert [line.rsplit(" ", 1)[0] for line in lines[:4]] == [
            f"{who} RuntimeError asked to stop" for who in (0, 0, 1, 1)
        ]
        # The sixth time it is asked, five chunks of 16 have been read; the other rank reads its sixth meanwhile.
        assert all(line.rsplit(" ", 1)[1] in ("80", "96") for line in (lines[1], lines[3])), lines
        assert lines[4] == "False"
