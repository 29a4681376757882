"""Changes of quality that lose no variety: 40 kinds at three strengths, and combinations of two, for images of any data set.

A generator's images are never real ones: they are softer, noisier, framed otherwise, or carry the marks of its layers. A
verdict on mode collapse must not take any of that for a loss. Every function here changes each image by itself, or replaces
it by a mixture with one neighbour, so that all classes, all kinds inside a class and all differences between images stay.

`mild` is a change that a person would keep the images with, `medium` one that is seen at once, `strong` one that spoils them.
Half of the kinds (`development`) are there to build a detector with; the other half (`heldback`) is for reporting it, and is
looked at once. Which is which is drawn by a fixed seed.

    python -m benchmarks.quality_changes --data cifar10 --out changes.png       (a picture: a row a kind, three strengths)
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Level = Literal["mild", "medium", "strong"]
LEVELS: tuple[Level, ...] = ("mild", "medium", "strong")
CHUNK = 500
"""Images that are changed at a time."""


@dataclass(frozen=True)
class Neighbours:
    """Real images, float32 [m, C, H, W] in 0 … 255, that mixtures and principal axes are made of, and their classes."""

    images: Tensor
    labels: np.ndarray


@dataclass(frozen=True)
class Request:
    """One call: images float32 [n, C, H, W] in 0 … 255, their classes, random numbers, and what neighbours there are."""

    images: Tensor
    labels: np.ndarray
    random: np.random.Generator
    neighbours: Neighbours

    def uniform(self, *shape: int, low: float = -1.0, high: float = 1.0) -> Tensor:
        """[n, *shape], float32."""
        return torch.from_numpy(self.random.uniform(low, high, (len(self.images), *shape)).astype(np.float32))

    def normal(self) -> Tensor:
        """Standard normal, of the images' shape."""
        return torch.from_numpy(self.random.standard_normal(tuple(self.images.shape), dtype=np.float32))


Change = Callable[[Request, float], Tensor]
"""Images and a strength, in the kind's own unit, to images of the same shape; values are clipped to 0 … 255 afterwards."""


# Geometry


def _warped(request: Request, places: Tensor, padding: str) -> Tensor:
    """Images looked up at `places` [n, H, W, 2] in [−1, 1], bicubic."""
    return F.grid_sample(request.images, places, mode="bicubic", padding_mode=padding, align_corners=False)


def _base(request: Request) -> Tensor:
    """The place of each pixel, [n, H, W, 2]."""
    return _linear(request, torch.eye(2, 3).expand(len(request.images), 2, 3))


def _linear(request: Request, matrices: Tensor) -> Tensor:
    return F.affine_grid(matrices, list(request.images.shape), align_corners=False)


def _matrices(request: Request, degrees: float, pixels: float, scale: float) -> Tensor:
    """Random rotations, shifts and scales up to these, [n, 2, 3]."""
    angle = request.uniform() * (degrees * torch.pi / 180)
    factor = 1 + request.uniform() * scale
    shift = request.uniform(2) * (2 * pixels / request.images.shape[-1])
    cosine, sine = factor * angle.cos(), factor * angle.sin()
    return torch.stack([torch.stack([cosine, -sine, shift[:, 0]], 1), torch.stack([sine, cosine, shift[:, 1]], 1)], 1)


def _affine(padding: str) -> Change:
    def change(request: Request, strength: float) -> Tensor:
        return _warped(
            request, _linear(request, _matrices(request, 7 * strength, 1.2 * strength, 0.06 * strength)), padding
        )

    return change


def _zoom(request: Request, strength: float) -> Tensor:
    """Every image seen through a window of 1 / `strength` of its side; below 1 its edges are repeated around it."""
    matrices = torch.eye(2, 3).expand(len(request.images), 2, 3) / strength
    return _warped(request, _linear(request, matrices), "border")


def _shift(request: Request, strength: float) -> Tensor:
    """Every image the same number of pixels down and to the right."""
    return _warped(request, _base(request) - 2 * strength / request.images.shape[-1], "border")


def _stretch(request: Request, strength: float) -> Tensor:
    matrices = torch.zeros(len(request.images), 2, 3)
    matrices[:, 0, 0], matrices[:, 1, 1] = 1 + request.uniform() * strength, 1 + request.uniform() * strength
    return _warped(request, _linear(request, matrices), "border")


def _shear(request: Request, strength: float) -> Tensor:
    matrices = torch.eye(2, 3).repeat(len(request.images), 1, 1)
    matrices[:, 0, 1] = request.uniform() * strength
    return _warped(request, _linear(request, matrices), "border")


def _elastic(request: Request, strength: float) -> Tensor:
    """Each pixel moved by up to about `strength` pixels, neighbours alike (Simard et al. 2003 distort digits so)."""
    side = request.images.shape[-1]
    field = F.interpolate(request.uniform(2, 5, 5), size=request.images.shape[-2:], mode="bicubic", align_corners=True)
    return _warped(request, _base(request) + field.permute(0, 2, 3, 1) * (2 * strength / side), "border")


def _perspective(request: Request, strength: float) -> Tensor:
    places, tilt = _base(request), request.uniform(2) * strength
    depth = 1 + places[..., 0] * tilt[:, 0, None, None] + places[..., 1] * tilt[:, 1, None, None]
    return _warped(request, places / depth[..., None], "border")


# Borders


def _frame(request: Request, strength: float) -> Tensor:
    width, images = int(strength), request.images.clone()
    images[..., :width, :], images[..., -width:, :], images[..., :width], images[..., -width:] = 0, 0, 0, 0
    return images


def _vignette(request: Request, strength: float) -> Tensor:
    return request.images * (1 - strength * _base(request)[:1].square().sum(-1) / 2)


# Sharpness and resampling


def blurred(images: Tensor, sigma: float) -> Tensor:
    """A Gaussian of `sigma` pixels over images [n, C, H, W], edges reflected."""
    reach = min(max(1, round(3 * sigma)), images.shape[-1] - 1)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    return _convolved(_convolved(images, (weights / weights.sum())[None]), (weights / weights.sum())[:, None])


def _convolved(images: Tensor, kernel: Tensor) -> Tensor:
    rows, columns = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = F.pad(images, (columns, columns, rows, rows), mode="reflect")
    channels = images.shape[1]
    return F.conv2d(padded, kernel.expand(channels, 1, *kernel.shape), groups=channels)


def _blur(request: Request, strength: float) -> Tensor:
    return blurred(request.images, strength)


def _motion(request: Request, strength: float) -> Tensor:
    length = int(strength)
    return _convolved(request.images, torch.full((1, length), 1.0 / length))


def _unsharp(request: Request, strength: float) -> Tensor:
    return request.images + strength * (request.images - blurred(request.images, 1.0))


def _median(request: Request, strength: float) -> Tensor:
    """The median of each 3×3 neighbourhood, mixed in by `strength`."""
    padded = F.pad(request.images, (1, 1, 1, 1), mode="reflect")
    middle = padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(-2).median(-1).values
    return torch.lerp(request.images, middle, strength)


def _resampled(mode: str) -> Change:
    def change(request: Request, strength: float) -> Tensor:
        side, options = request.images.shape[-1], {} if mode == "nearest" else {"align_corners": False}
        small = F.interpolate(request.images, size=max(4, round(side * strength)), mode=mode, **options)
        return F.interpolate(small, size=side, mode=mode, **options)

    return change


def _ringing(request: Request, strength: float) -> Tensor:
    """All frequencies above `strength` of the highest cut off, which leaves rings beside edges."""
    height, width = request.images.shape[-2:]
    spectrum = torch.fft.rfft2(request.images)
    rows, columns = torch.fft.fftfreq(height).abs()[:, None], torch.fft.rfftfreq(width)[None]
    return torch.fft.irfft2(spectrum * (torch.maximum(rows, columns) <= strength / 2), s=(height, width))


# Noise


def _white(request: Request, strength: float) -> Tensor:
    return request.images + strength * request.normal()


def _smooth_noise(request: Request, strength: float) -> Tensor:
    noise = blurred(request.normal(), 2.0)
    return request.images + noise * (strength / noise.std())


def _sharp_noise(request: Request, strength: float) -> Tensor:
    noise = request.normal()
    noise = noise - blurred(noise, 1.0)
    return request.images + noise * (strength / noise.std())


def _specks(request: Request, strength: float) -> Tensor:
    """A share `strength` of the pixels black or white."""
    chance = request.uniform(1, *request.images.shape[-2:], low=0.0)
    return request.images.masked_fill(chance < strength / 2, 0.0).masked_fill(chance > 1 - strength / 2, 255.0)


def _speckle(request: Request, strength: float) -> Tensor:
    return request.images * (1 + strength * request.normal())


# Compression and quantisation


def _encoded(kind: str) -> Change:
    def change(request: Request, strength: float) -> Tensor:
        from PIL import Image

        changed = []
        for pixels in as_uint8(request.images):
            buffer = io.BytesIO()
            Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
                buffer, kind, quality=int(strength)
            )
            picture = Image.open(buffer).convert("L" if pixels.shape[-1] == 1 else "RGB")
            changed.append(np.asarray(picture).reshape(pixels.shape))
        return as_floats(np.stack(changed))

    return change


def _levels(request: Request, strength: float) -> Tensor:
    step = 255 / (strength - 1)
    return (request.images / step).round() * step


def _dithered(request: Request, strength: float) -> Tensor:
    """`strength` grey levels, with an ordered pattern of 2×2 pixels between them."""
    height, width = request.images.shape[-2:]
    pattern = torch.tensor([[-0.375, 0.125], [0.375, -0.125]]).repeat(height // 2 + 1, width // 2 + 1)[:height, :width]
    step = 255 / (strength - 1)
    return (request.images / step + pattern).round() * step


# Colour and tone


def _brightness(request: Request, strength: float) -> Tensor:
    return request.images + 255 * strength * request.uniform(1, 1, 1)


def _darker(request: Request, strength: float) -> Tensor:
    return request.images * (1 - strength)


def _contrast(request: Request, strength: float) -> Tensor:
    level = request.images.mean((1, 2, 3), keepdim=True)
    return level + (request.images - level) * (1 + strength * request.uniform(1, 1, 1))


def _flat(request: Request, strength: float) -> Tensor:
    """Less contrast in every image, as of a faded print."""
    return 127.5 + (request.images - 127.5) * (1 - strength)


def _gamma(request: Request, strength: float) -> Tensor:
    return 255 * (request.images / 255).clamp(0, 1) ** strength


def _s_curve(request: Request, strength: float) -> Tensor:
    """Shadows darker and lights lighter."""
    unit = (request.images / 255).clamp(0, 1)
    return 255 * torch.lerp(unit, unit * unit * (3 - 2 * unit), strength)


def _saturation(request: Request, strength: float) -> Tensor:
    """Colours weaker or stronger; images without colour get a grey veil of changing strength instead."""
    if request.images.shape[1] == 1:
        return torch.lerp(request.images, torch.full_like(request.images, 127.5), 0.5 * strength)
    grey = request.images.mean(1, keepdim=True)
    return grey + (request.images - grey) * (1 + strength * request.uniform(1, 1, 1))


def _cast(request: Request, strength: float) -> Tensor:
    """A gain of its own for each channel of each image."""
    return request.images * (1 + strength * request.uniform(request.images.shape[1], 1, 1))


def _bolder(request: Request, strength: float) -> Tensor:
    """Bright parts a pixel wider, mixed in by `strength`."""
    return torch.lerp(request.images, F.max_pool2d(request.images, 3, 1, 1), strength)


def _thinner(request: Request, strength: float) -> Tensor:
    return torch.lerp(request.images, -F.max_pool2d(-request.images, 3, 1, 1), strength)


# Marks of up-sampling layers


def _checkerboard(request: Request, strength: float) -> Tensor:
    height, width = request.images.shape[-2:]
    signs = (torch.arange(height)[:, None] + torch.arange(width)) % 2 * 2.0 - 1
    return request.images + strength * signs


def _lattice(request: Request, strength: float) -> Tensor:
    """Each fourth row and column lighter, as overlapping strided kernels leave it (Odena et al. 2016)."""
    height, width = request.images.shape[-2:]
    lines = ((torch.arange(height)[:, None] % 4 == 0) | (torch.arange(width) % 4 == 0)).float()
    return request.images + strength * (lines - lines.mean())


def _uneven_checkerboard(request: Request, strength: float) -> Tensor:
    """A checkerboard that is as strong as the image is bright at each place."""
    height, width = request.images.shape[-2:]
    signs = (torch.arange(height)[:, None] + torch.arange(width)) % 2 * 2.0 - 1
    return request.images * (1 + strength * signs)


# Principal axes and neighbours


def _projected(request: Request, strength: float) -> Tensor:
    """Images from their principal components that hold a share `strength` of the variance."""
    flat = request.neighbours.images.flatten(1)[:4000]
    middle = flat.mean(0)
    _, values, axes = torch.linalg.svd(flat - middle, full_matrices=False)
    kept = int((values.square().cumsum(0) / values.square().sum() < strength).sum()) + 1
    axes = axes[:kept]
    return (middle + (request.images.flatten(1) - middle) @ axes.T @ axes).reshape(request.images.shape)


def _nearest(request: Request, within: np.ndarray | None) -> Tensor:
    """For each image the nearest of the neighbours (of the class that `within` says), never itself."""
    pool, labels = request.neighbours.images, request.neighbours.labels
    distances = torch.cdist(request.images.flatten(1), pool.flatten(1))
    distances.masked_fill_(distances < 1e-3, torch.inf)
    if within is not None:
        distances.masked_fill_(torch.from_numpy(within[:, None] != labels[None]), torch.inf)
    return pool[distances.argmin(1)]


def _mixed_in_class(request: Request, strength: float) -> Tensor:
    return torch.lerp(request.images, _nearest(request, request.labels), strength)


def _mixed(request: Request, strength: float) -> Tensor:
    return torch.lerp(request.images, _nearest(request, None), strength)


@dataclass(frozen=True)
class Kind:
    """A change at its three strengths."""

    change: Change
    strengths: tuple[float, float, float]


KINDS: Mapping[str, Kind] = {
    "affine, reflected borders": Kind(_affine("reflection"), (0.5, 1.0, 2.0)),
    "affine, black corners": Kind(_affine("zeros"), (0.5, 1.0, 2.0)),
    "affine, repeated borders": Kind(_affine("border"), (0.5, 1.0, 2.0)),
    "zoomed in": Kind(_zoom, (1.06, 1.15, 1.35)),
    "zoomed out": Kind(_zoom, (0.95, 0.88, 0.75)),
    "shifted": Kind(_shift, (1.0, 2.0, 4.0)),
    "stretched": Kind(_stretch, (0.06, 0.12, 0.25)),
    "sheared": Kind(_shear, (0.06, 0.15, 0.3)),
    "elastic": Kind(_elastic, (0.5, 1.2, 2.5)),
    "perspective": Kind(_perspective, (0.05, 0.12, 0.25)),
    "black frame": Kind(_frame, (1, 2, 4)),
    "vignette": Kind(_vignette, (0.15, 0.4, 0.9)),
    "blurred": Kind(_blur, (0.5, 0.9, 1.6)),
    "motion blur": Kind(_motion, (3, 5, 7)),
    "unsharp mask": Kind(_unsharp, (0.5, 1.0, 2.5)),
    "median filter": Kind(_median, (0.3, 0.6, 1.0)),
    "small and large again, bicubic": Kind(_resampled("bicubic"), (0.875, 0.75, 0.45)),
    "small and large again, bilinear": Kind(_resampled("bilinear"), (0.9, 0.75, 0.45)),
    "small and large again, nearest": Kind(_resampled("nearest"), (0.9, 0.75, 0.45)),
    "ringing": Kind(_ringing, (0.75, 0.5, 0.3)),
    "white noise": Kind(_white, (4, 10, 28)),
    "smooth noise": Kind(_smooth_noise, (4, 10, 28)),
    "sharp noise": Kind(_sharp_noise, (4, 10, 28)),
    "specks": Kind(_specks, (0.003, 0.012, 0.05)),
    "speckle": Kind(_speckle, (0.05, 0.12, 0.35)),
    "JPEG": Kind(_encoded("JPEG"), (75, 35, 10)),
    "WebP": Kind(_encoded("WEBP"), (70, 25, 3)),
    "few grey levels": Kind(_levels, (24, 10, 4)),
    "dithered": Kind(_dithered, (20, 8, 3)),
    "brightness": Kind(_brightness, (0.08, 0.2, 0.4)),
    "darker": Kind(_darker, (0.1, 0.25, 0.55)),
    "contrast": Kind(_contrast, (0.12, 0.3, 0.6)),
    "faded": Kind(_flat, (0.1, 0.25, 0.55)),
    "gamma": Kind(_gamma, (1.15, 1.5, 2.5)),
    "S-curve": Kind(_s_curve, (0.3, 0.7, 1.3)),
    "saturation": Kind(_saturation, (0.2, 0.45, 0.9)),
    "colour cast": Kind(_cast, (0.06, 0.15, 0.35)),
    "bolder": Kind(_bolder, (0.2, 0.45, 1.0)),
    "thinner": Kind(_thinner, (0.2, 0.45, 1.0)),
    "checkerboard": Kind(_checkerboard, (4, 10, 25)),
    "lattice": Kind(_lattice, (5, 12, 30)),
    "uneven checkerboard": Kind(_uneven_checkerboard, (0.04, 0.1, 0.25)),
    "principal axes": Kind(_projected, (0.98, 0.95, 0.85)),
    "mixed with its nearest of the class": Kind(_mixed_in_class, (0.12, 0.25, 0.45)),
    "mixed with its nearest": Kind(_mixed, (0.12, 0.25, 0.45)),
}


def _halves() -> tuple[tuple[str, ...], tuple[str, ...]]:
    names = list(KINDS)
    drawn = set(np.random.default_rng(20261128).permutation(len(names))[: len(names) // 2].tolist())
    return tuple(n for i, n in enumerate(names) if i in drawn), tuple(n for i, n in enumerate(names) if i not in drawn)


DEVELOPMENT, HELDBACK = _halves()


def combinations(kinds: Sequence[str], count: int, seed: int = 0) -> list[tuple[str, str]]:
    """`count` different pairs of `kinds`, drawn by a seed: the first is applied first."""
    generator = np.random.default_rng(seed)
    pairs = [(a, b) for a in kinds for b in kinds if a != b]
    return [pairs[place] for place in generator.permutation(len(pairs))[:count]]


def changed(
    images: np.ndarray,
    labels: np.ndarray,
    kinds: str | Sequence[str],
    level: Level,
    neighbours: tuple[np.ndarray, np.ndarray],
    seed: int = 0,
) -> np.ndarray:
    """Images after one change or several in a row, uint8 [n, H, W, C].

    Args:
        images: uint8 [n, H, W, C].
        labels: int [n], which say whose neighbours are of the same class.
        kinds: names out of `KINDS`, applied in this order.
        level: how strong each of them is.
        neighbours: real images uint8 [m, H, W, C] and their labels [m], for mixtures and principal axes.
        seed: of the changes' random numbers.
    """
    around = Neighbours(as_floats(neighbours[0]), neighbours[1])
    generator = np.random.default_rng(seed)
    parts = []
    for start in range(0, len(images), CHUNK):
        part, truth = as_floats(images[start : start + CHUNK]), labels[start : start + CHUNK]
        for name in (kinds,) if isinstance(kinds, str) else kinds:
            kind = KINDS[name]
            request = Request(part, truth, generator, around)
            part = kind.change(request, kind.strengths[LEVELS.index(level)]).clamp(0, 255)
        parts.append(as_uint8(part))
    return np.concatenate(parts)


def as_floats(images: np.ndarray) -> Tensor:
    """uint8 [n, H, W, C] to float32 [n, C, H, W] in 0 … 255."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float()


def as_uint8(images: Tensor) -> np.ndarray:
    """Float [n, C, H, W] in 0 … 255 to uint8 [n, H, W, C]."""
    return images.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def picture(images: np.ndarray, labels: np.ndarray, path: Path, columns: int = 6) -> None:
    """A row for each kind: the same images unchanged, then at each strength."""
    from gantk.grids import save_grid

    few, truth = images[:columns], labels[:columns]
    rows, names = [few], ["unchanged"]
    for name in KINDS:
        for level in LEVELS:
            rows.append(changed(few, truth, name, level, (images[columns:1000], labels[columns:1000])))
            names.append(f"{name}, {level}")
    save_grid(np.concatenate(rows), path, columns, names)


def main() -> None:
    from benchmarks.collapse_worlds import read_images

    parser = argparse.ArgumentParser(description="A picture of every change of quality, a row a kind and strength.")
    parser.add_argument("--data", default="cifar10", help="mnist, cifar10 or digits")
    parser.add_argument("--out", type=Path, default=Path("changes.png"))
    given = parser.parse_args()
    images, labels, _ = read_images(given.data)
    picture(images, labels, given.out)


if __name__ == "__main__":
    main()
