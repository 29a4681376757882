"""What each metric costs beside the extraction of its features, on random features of Inception's size.

    OMP_NUM_THREADS=1 python -m benchmarks.metric_costs [generated] [reference] [dimensions]

Seconds of processor time for one evaluation: the value with its error, and the floor, which is worked out once for each
number of images. Processor time, for wall time says more of a machine's other users.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from gantk_eval.features import Features
from gantk_eval.measures import measure
from gantk_eval.memorisation import MemorisationTest

from benchmarks.records import write


class Random:
    """Stands for an extractor: features are given, logits are some of them."""

    name, weights_sha256, resize, precision = "random", "", "none", "fp32"

    def __init__(self, dims: int) -> None:
        self.dims = dims

    def features(self, images: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def logits(self, features: np.ndarray) -> np.ndarray:
        return features[:, :1008].astype(np.float64)


def cloud(count: int, dims: int, seed: int, extractor: Random) -> Features:
    generator = np.random.default_rng(seed)
    scales = np.exp(-4.0 * np.arange(dims) / dims)
    return Features((generator.standard_normal((count, dims)) * scales + 0.3).astype(np.float32), extractor)


def main(generated: int = 2000, reference: int = 10_000, dims: int = 2048) -> None:
    extractor = Random(dims)
    fake, held, real = (cloud(n, dims, seed, extractor) for seed, n in enumerate((generated, generated, reference)))
    begin = time.process_time()
    assert real.factor.shape[0] == dims
    once = time.process_time() - begin
    print(f"{'reference, once':16} {once:6.2f} s")
    found: dict[str, Any] = {"reference_once_s": once}
    for kind in ("fd", "is", "kd", "precision", "recall", "density", "coverage", "vendi"):
        rows: list[Any] = []
        for features, errors in ((fake, True), (held, False)):
            begin = time.process_time()
            measure(kind, features, real, 1000, errors=errors)
            rows.append(time.process_time() - begin)
        found[kind] = {"s": rows[0], "floor_once_s": rows[1]}
        print(f"{kind:16} {rows[0]:6.2f} s   floor {rows[1]:6.2f} s")
    small = [cloud(n, 64, seed, extractor).values for seed, n in enumerate((generated, generated, reference))]
    begin = time.process_time()
    test = MemorisationTest(small[1], small[2])
    once = time.process_time() - begin
    begin = time.process_time()
    test.judge(small[0])
    each = time.process_time() - begin
    print(f"{'memorisation':16} {each:6.2f} s   once  {once:6.2f} s")
    found["memorisation"] = {"s": each, "once_s": once}
    write("metric_costs", {"generated": generated, "reference": reference, "dimensions": dims, "metrics": found})


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
