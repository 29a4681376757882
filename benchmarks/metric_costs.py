"""What each metric costs beside the extraction of its features, on random features of Inception's size.

    python benchmarks/metric_costs.py [generated] [reference] [dimensions]

Seconds for one evaluation: the value with its error, and the floor, which is worked out once for each number of images.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from gantk_eval.features import Features
from gantk_eval.measures import measure
from gantk_eval.memorisation import MemorisationTest


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
    begin = time.perf_counter()
    assert real.factor.shape[0] == dims
    print(f"{'reference, once':16} {time.perf_counter() - begin:6.2f} s")
    for kind in ("fd", "is", "kd", "precision", "recall", "density", "coverage", "vendi"):
        rows: list[Any] = []
        for features, errors in ((fake, True), (held, False)):
            begin = time.perf_counter()
            measure(kind, features, real, 1000, errors=errors)
            rows.append(time.perf_counter() - begin)
        print(f"{kind:16} {rows[0]:6.2f} s   floor {rows[1]:6.2f} s")
    small = [cloud(n, 64, seed, extractor).values for seed, n in enumerate((generated, generated, reference))]
    begin = time.perf_counter()
    test = MemorisationTest(small[1], small[2])
    once = time.perf_counter() - begin
    begin = time.perf_counter()
    test.judge(small[0])
    print(f"{'memorisation':16} {time.perf_counter() - begin:6.2f} s   once  {once:6.2f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
