"""Whoever asks to stop on one rank ends the evaluation on all, while it extracts and while a classifier is trained."""

from __future__ import annotations

from collections.abc import Callable

WORKER = """
import numpy as np
from gantk_eval import ArrayImages, Evaluator, distributed
from gantk_eval.extractors import classifier

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


def test_all_ranks_leave_together(in_processes: Callable[..., list[tuple[int, str, str]]]) -> None:
    for _, out, err in in_processes(WORKER, 2):
        lines = out.splitlines()
        assert len(lines) == 5, err
        assert [line.rsplit(" ", 1)[0] for line in lines[:4]] == [
            f"{who} RuntimeError asked to stop" for who in (0, 0, 1, 1)
        ]
        # The sixth time it is asked, five chunks of 16 have been read; the other rank reads its sixth meanwhile.
        assert all(line.rsplit(" ", 1)[1] in ("80", "96") for line in (lines[1], lines[3])), lines
        assert lines[4] == "False"
