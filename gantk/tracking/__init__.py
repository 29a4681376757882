"""What a run writes down as it goes: `metrics.jsonl` always; Weights & Biases and TensorBoard in addition.

Importing this package imports neither wandb nor torch.
"""

from __future__ import annotations

from gantk.tracking.local import read_metrics
from gantk.tracking.tracker import Tracker, log_evaluation

__all__ = ["Tracker", "log_evaluation", "read_metrics"]
