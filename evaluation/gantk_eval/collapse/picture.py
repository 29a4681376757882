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

__all__ = ["as_png", "begin", "draw", "write"]

Reader = Callable[[np.ndarray], np.ndarray]
"""Rows int64 [n] (or whatever the exhibit names images by, [n, …]) -> images uint8 [n, H, W, C]."""

THUMB, GAP, MARGIN, LINE, MAP = 44, 4, 16, 18, 380
REASONS = 6
WIDTH = 2 * MARGIN + IN_ROW * (THUMB + GAP) + MARGIN + MAP
BESIDE = MAP // (THUMB + GAP) + 1
"""Rows and columns of samples in the map's place."""
UNDRAWN = {"σ": " sigma", "×": "x", "−": "-"}
"""Signs that Pillow's own font lacks."""
REAL, FAKE, INK, PALE = (150, 150, 150), (200, 62, 40), (20, 20, 20), (110, 110, 110)


def draw(verdict: str, reasons: Sequence[str], shown: Exhibit, reference: Reader, fake: Reader) -> bytes:
    """The picture as PNG. `reference`, `fake`: read the images that `shown` names.

    Samples that are not kept (they came as a stream of batches) are left out of it.
    """
    rows: list[tuple[str, np.ndarray | None]] = []
    if shown.missing:
        rows.append((shown.heading, None))
        rows += [(_expected(entry, shown.kind), reference(found)) for entry, found in shown.missing]
    for each in shown.alike:
        samples = _read(fake, [("samples of it", each.samples)])
        lacking = [("real images of it that no sample is near", reference(each.lacking))] if len(each.lacking) else []
        if samples or lacking:
            rows += [(f"Without variety: class {each.name}", None), *samples, *lacking]
    pictures = _read(fake, [(f"{len(group):,} samples", np.sort(group[:IN_ROW])) for group in shown.clusters])
    if pictures:
        rows.append((f"Near-duplicates: {shown.in_clusters:,} samples in clusters, the largest of them", None))
        rows += pictures
    if not rows:
        calm = "No mode is missing, and no sample is a near-duplicate of another."
        rows.append(
            (
                calm if verdict == "ok" else "No missing mode and no near-duplicates were found that could be shown.",
                None,
            )
        )
    samples = _read(fake, [("samples", shown.samples)]) if len(shown.samples) and len(shown.others) else []
    if samples:
        rows.append(("As they come", None))
        rows += [*samples, ("real images", reference(shown.others))]
    body = sum(LINE + (THUMB + 2 * GAP if images is not None else GAP) for _, images in rows)
    canvas, pen, top = begin(verdict, reasons, max(body, MAP + 3 * LINE))
    y = top
    for text, images in rows:
        write(pen, (MARGIN, y), text, INK if images is None else PALE, 14 if images is None else 12)
        y += LINE
        for place, image in enumerate(images[:IN_ROW] if images is not None else ()):
            canvas.paste(_thumbnail(image), (MARGIN + place * (THUMB + GAP), y))
        y += THUMB + 2 * GAP if images is not None else GAP
    left = WIDTH - MARGIN - MAP
    if len(shown.real) or len(shown.fake):
        _map(pen, shown, left, top)
    elif len(shown.samples):
        write(pen, (left, top), "Generated samples", INK, 14)
        for place, image in enumerate(fake(shown.samples[: BESIDE**2])):
            down, across = divmod(place, BESIDE)
            where = (left + across * (THUMB + GAP), top + LINE + down * (THUMB + GAP))
            canvas.paste(_thumbnail(image), where)
    return as_png(canvas)


def begin(verdict: str, reasons: Sequence[str], body: int) -> tuple[Image, ImageDraw, int]:
    """A white canvas with room for a body of so many pixels in height: verdict and first reasons are on it. With it come its
    pen, and the row at which the body starts."""
    from PIL import Image, ImageDraw

    head = [f"collapse: {verdict}"]
    for reason in reasons[:REASONS]:
        head += textwrap.wrap(f"- {reason}", 130)
    if len(reasons) > REASONS:
        head.append(f"- and {len(reasons) - REASONS} more")
    top = MARGIN + LINE * len(head) + MARGIN
    canvas = Image.new("RGB", (WIDTH, top + body + MARGIN), (255, 255, 255))
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(head):
        write(pen, (MARGIN, MARGIN + number * LINE), line, INK, 15 if number == 0 else 13)
    return canvas, pen, top


def as_png(canvas: Image) -> bytes:
    """The canvas as a PNG file."""
    data = io.BytesIO()
    canvas.save(data, format="PNG")
    return data.getvalue()


def _expected(entry: dict[str, Any], kind: str) -> str:
    mode = str(entry["mode"])
    name = mode if mode.startswith("region ") else f"{kind} {mode}"
    return f"{name}: {entry['expected']:,} expected, {entry['seen']:,} seen"


def _read(reader: Reader, wanted: Sequence[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray | None]]:
    """The images by their captions; nothing where they are not kept."""
    try:
        return [(caption, reader(rows)) for caption, rows in wanted]
    except RuntimeError:
        return []


def write(
    pen: ImageDraw, where: tuple[int, int], text: str, color: tuple[int, int, int], size: int, anchor: str = "la"
) -> None:
    """One line of text; `anchor`: what of it is at `where`, as Pillow names it."""
    from PIL import ImageFont

    for sign, word in UNDRAWN.items():
        text = text.replace(sign, word)
    pen.text(where, text, fill=color, font=ImageFont.load_default(size=size), anchor=anchor)


def _thumbnail(image: np.ndarray) -> Image:
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
    small = max(picture.size) < THUMB
    return picture.resize((THUMB, THUMB), Image.Resampling.NEAREST if small else Image.Resampling.BOX)


def _map(pen: ImageDraw, shown: Exhibit, left: int, top: int) -> None:
    """Real (grey) and generated (red) features on the reference's two longest axes."""
    write(pen, (left, top), "Features of held-out real (grey) and generated (red) images", INK, 13)
    write(pen, (left, top + LINE), "on the two longest principal axes of the reference", PALE, 12)
    top += 2 * LINE
    pen.rectangle((left, top, left + MAP - 1, top + MAP - 1), outline=(210, 210, 210))
    both = np.concatenate([shown.real, shown.fake])
    # A few outliers must not press everything else into a corner.
    low, high = np.quantile(both, 0.002, axis=0), np.quantile(both, 0.998, axis=0)
    scale = (MAP - 12) / max(float((high - low).max()), 1e-12)
    middle = (low + high) / 2
    for points, color in ((shown.real, REAL), (shown.fake, FAKE)):
        at = np.clip((points - middle) * scale, -(MAP / 2 - 4), MAP / 2 - 4) + MAP / 2
        for x, y in at.round().astype(int):
            pen.rectangle((left + x - 1, top + MAP - y - 1, left + x, top + MAP - y), fill=color)
