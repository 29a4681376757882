"""One picture for a verdict: what is missing as real images, duplicates as clusters of samples, and a map of both."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gantk_eval.collapse.exhibit import IN_ROW, Exhibit

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

__all__ = ["draw"]

Reader = Callable[[np.ndarray], np.ndarray]
"""Rows int64 [n] -> images uint8 [n, H, W, C]."""

THUMB, GAP, MARGIN, LINE, MAP = 44, 4, 16, 18, 380
REASONS = 6
WIDTH = 2 * MARGIN + IN_ROW * (THUMB + GAP) + MARGIN + MAP
REAL, FAKE, INK, PALE = (150, 150, 150), (200, 62, 40), (20, 20, 20), (110, 110, 110)


def draw(verdict: str, reasons: Sequence[str], shown: Exhibit, reference: Reader, fake: Reader) -> bytes:
    """The picture as PNG. `reference`, `fake`: read the images that `shown` names.

    Samples that are not kept (they came as a stream of batches) are left out of it.
    """
    from PIL import Image, ImageDraw

    rows: list[tuple[str, np.ndarray | None]] = []
    if shown.missing:
        rows.append(("Missing or starved: real images of what the samples lack", None))
        rows += [(_expected(entry), reference(found)) for entry, found in shown.missing]
    pictures = _read(fake, [(f"{len(group):,} samples", np.sort(group[:IN_ROW])) for group in shown.clusters])
    if pictures:
        rows.append((f"Near-duplicates: {shown.in_clusters:,} samples in clusters, the largest of them", None))
        rows += pictures
    samples = _read(fake, [("samples", shown.samples)]) if len(shown.samples) else []
    if samples:
        rows.append(("As they come", None))
        rows += [*samples, ("real images", reference(shown.others))]
    if not rows:
        calm = "No mode is missing, and no sample is a near-duplicate of another."
        rows.append(
            (
                calm if verdict == "ok" else "No missing mode and no near-duplicates were found that could be shown.",
                None,
            )
        )
    head = [f"collapse: {verdict}"]
    for reason in reasons[:REASONS]:
        head += textwrap.wrap(f"- {reason}", 130)
    if len(reasons) > REASONS:
        head.append(f"- and {len(reasons) - REASONS} more")
    body = sum(LINE + (THUMB + 2 * GAP if images is not None else GAP) for _, images in rows)
    top = MARGIN + LINE * len(head) + MARGIN
    canvas = Image.new("RGB", (WIDTH, max(top + body, top + MAP + 3 * LINE) + MARGIN), (255, 255, 255))
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(head):
        _write(pen, (MARGIN, MARGIN + number * LINE), line, INK, 15 if number == 0 else 13)
    y = top
    for text, images in rows:
        _write(pen, (MARGIN, y), text, INK if images is None else PALE, 14 if images is None else 12)
        y += LINE
        for place, image in enumerate(images[:IN_ROW] if images is not None else ()):
            canvas.paste(_thumbnail(image), (MARGIN + place * (THUMB + GAP), y))
        y += THUMB + 2 * GAP if images is not None else GAP
    _map(pen, shown, WIDTH - MARGIN - MAP, top)
    data = io.BytesIO()
    canvas.save(data, format="PNG")
    return data.getvalue()


def _expected(entry: dict[str, Any]) -> str:
    mode = str(entry["mode"])
    name = mode if mode.startswith("region ") else f"class {mode}"
    return f"{name}: {entry['expected']:,} expected, {entry['seen']:,} seen"


def _read(reader: Reader, wanted: Sequence[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray | None]]:
    """The images by their captions; nothing where they are not kept."""
    try:
        return [(caption, reader(rows)) for caption, rows in wanted]
    except RuntimeError:
        return []


def _write(pen: ImageDraw, where: tuple[int, int], text: str, color: tuple[int, int, int], size: int) -> None:
    from PIL import ImageFont

    pen.text(where, text, fill=color, font=ImageFont.load_default(size=size))


def _thumbnail(image: np.ndarray) -> Image:
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
    small = max(picture.size) < THUMB
    return picture.resize((THUMB, THUMB), Image.Resampling.NEAREST if small else Image.Resampling.BOX)


def _map(pen: ImageDraw, shown: Exhibit, left: int, top: int) -> None:
    """Real (grey) and generated (red) features on the reference's two longest axes."""
    _write(pen, (left, top), "Features of held-out real (grey) and generated (red) images", INK, 13)
    _write(pen, (left, top + LINE), "on the two longest principal axes of the reference", PALE, 12)
    top += 2 * LINE
    pen.rectangle((left, top, left + MAP - 1, top + MAP - 1), outline=(210, 210, 210))
    both = np.concatenate([shown.real, shown.fake])
    if not len(both):
        return
    # A few outliers must not press everything else into a corner.
    low, high = np.quantile(both, 0.002, axis=0), np.quantile(both, 0.998, axis=0)
    scale = (MAP - 12) / max(float((high - low).max()), 1e-12)
    middle = (low + high) / 2
    for points, color in ((shown.real, REAL), (shown.fake, FAKE)):
        at = np.clip((points - middle) * scale, -(MAP / 2 - 4), MAP / 2 - 4) + MAP / 2
        for x, y in at.round().astype(int):
            pen.rectangle((left + x - 1, top + MAP - y - 1, left + x, top + MAP - y), fill=color)
