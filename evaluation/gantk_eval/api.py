"""One call for sets of images of any kind: `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gantk_eval.evaluator import Evaluator
from gantk_eval.report import Report
from gantk_eval.sources import as_images

if TYPE_CHECKING:
    from gantk_eval.sources import Source

__all__ = ["evaluate"]


def evaluate(
    fake: Source,
    real: Source,
    heldout: Source | None = None,
    *,
    metrics: Sequence[str] | None = None,
    samples: int | None = None,
    value_range: tuple[float, float] | None = None,
    **options: Any,
) -> Report:
    """Compares generated images with real ones.

        evaluate("samples/", "train/", "test/").table()
        evaluate(tensor, (images, labels), metrics=["kid", "coverage"], value_range=(-1, 1))
        evaluate(lambda index: my_samples(index), dataset, heldout_dataset, samples=10_000)

    `fake`, `real` (the reference), `heldout` (real images that no one trained on, for floors and verdicts): a path; an array
    uint8 [N, H, W, C] or [N, H, W]; a tensor uint8 [N, C, H, W]; (images, labels); a PyTorch or Hugging Face dataset; a function
    of global indices int64 [n] that returns uint8 [n, H, W, C], with `samples` of them; see `as_images`. `value_range`: of
    float images, (-1, 1) or (0, 1). `metrics`: names out of `METRICS` or `GENERIC`; None takes all that cost little. `options`:
    the `Evaluator`'s. To score several models against one reference, keep an `Evaluator`.
    Raises UserError for an unknown metric, WeightsError for missing weights, DataError for images that do not fit.
    """
    sets = [
        None if source is None else as_images(source, samples=samples, value_range=value_range, name=name)
        for source, name in ((fake, "the generated images"), (real, "the reference"), (heldout, "the held-out images"))
    ]
    images, reference, others = sets
    assert images is not None
    assert reference is not None
    return Evaluator(reference, others, metrics=metrics, **options).evaluate(images)
