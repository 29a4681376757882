"""gantk_eval: numbers for generated images that can be believed, with their protocol, and a verdict on mode collapse.

It knows nothing of training: it takes images (a folder, an array, a parquet file, a function that makes the i-th sample).
Importing it imports neither torch nor numpy; the names below are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gantk_eval.errors import DataError, UserError, WeightsError
from gantk_eval.paths import cache_folder

if TYPE_CHECKING:
    from gantk_eval.api import evaluate
    from gantk_eval.evaluator import Evaluator
    from gantk_eval.images import ArrayImages, GeneratedImages, ImageSet, decode, open_images
    from gantk_eval.report import Report
    from gantk_eval.sources import as_images
    from gantk_eval.streaming import StreamingEvaluator

__all__ = [
    "ArrayImages",
    "DataError",
    "Evaluator",
    "GeneratedImages",
    "ImageSet",
    "Report",
    "StreamingEvaluator",
    "UserError",
    "WeightsError",
    "as_images",
    "cache_folder",
    "decode",
    "evaluate",
    "open_images",
]

_WHERE = {
    "ArrayImages": "images",
    "GeneratedImages": "images",
    "ImageSet": "images",
    "decode": "images",
    "open_images": "images",
    "Evaluator": "evaluator",
    "evaluate": "api",
    "Report": "report",
    "StreamingEvaluator": "streaming",
    "as_images": "sources",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f"gantk_eval.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'gantk_eval' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
