"""Is diversity lost? Tests against held-out real images, calibrated by permutation, and one verdict with its reasons.

Each test is a file with one function from features (and labels) to a `TestResult`; `verdict.judge` weighs them.
"""

from __future__ import annotations

from gantk_eval.collapse.calibration import TestResult
from gantk_eval.collapse.verdict import Evidence, judge

__all__ = ["Evidence", "TestResult", "judge"]
