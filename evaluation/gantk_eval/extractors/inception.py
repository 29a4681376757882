"""torch-fidelity's InceptionV3 (the 2015-12-05 TensorFlow weights), the extractor of FID, IS and KID."""

from __future__ import annotations

import io
import os
import threading
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gantk_eval.errors import UserError, WeightsError
from gantk_eval.extractors.blocks import block_size, in_blocks
from gantk_eval.extractors.precision import exact_float32
from gantk_eval.extractors.resizing import tf1_bilinear
from gantk_eval.extractors.weights import sha256_of
from gantk_eval.paths import cache_folder, offline, weight_folders
from gantk_eval.progress import Bar

__all__ = ["WEIGHTS_FILE", "InceptionExtractor", "find_weights"]

WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
SHA256_PREFIX = "6726825d"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_FILE}"
PUBLISHED_INCEPTION = "inception-v3-compat"
"""The extractor's name with the published weights in float32: the only one whose scores are FID, IS and KID."""
PRECISIONS = ("fp32", "bf16")
LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c"),
)
SPATIAL_BLOCK, SPATIAL_CHANNELS = "Mixed_6d", 7
"""Where the features of sFID come from: see `inception_spatial`."""
DOWNLOAD_SECONDS = 5.0  # until the answer, looking the name up included; once bytes flow a slow line is no failure


def find_weights(explicit: str | Path | None = None, *, download: bool = True) -> tuple[Path, bool]:
    """The Inception weights file, and whether it is a custom one.

    Looked for: `explicit`, `$GANTK_INCEPTION_WEIGHTS` (either may be any file of the same format: the extractor is then
    called `inception-custom`), the published file in `$GANTK_WEIGHTS`, in torch.hub's cache (torch-fidelity's too) and in
    gantk's; then a download is tried, unless the environment says offline.
    Raises WeightsError, with the file's name, its hash and where to put it.
    """
    chosen = explicit or os.environ.get("GANTK_INCEPTION_WEIGHTS")
    if chosen:
        path = Path(chosen).expanduser()
        if not path.is_file():
            raise WeightsError(f"there are no Inception weights at {path}; give a file in the format of {WEIGHTS_FILE}")
        return path, not sha256_of(path).startswith(SHA256_PREFIX)
    for folder in weight_folders():
        path = folder / WEIGHTS_FILE
        if path.is_file():
            found = sha256_of(path)
            if not found.startswith(SHA256_PREFIX):
                raise WeightsError(
                    f"{path} is not the published file: its sha256 begins with {found[:8]}, not {SHA256_PREFIX}; "
                    "fetch it again, or name a file of your own with $GANTK_INCEPTION_WEIGHTS"
                )
            return path, False
    if download and not offline():
        fetched = _download(cache_folder() / "weights" / WEIGHTS_FILE)
        if fetched is not None:
            return fetched, False
    where = os.environ.get("GANTK_WEIGHTS") or "a folder named by $GANTK_WEIGHTS"
    raise WeightsError(
        f"FID, IS and KID need {WEIGHTS_FILE} (sha256 begins with {SHA256_PREFIX}), which is not on this machine; "
        f"download {URL} and put it into {where}"
    )


def _answer() -> Any:
    """The server's answer to a request for the weights, with nothing read of its body; None where there is none in time."""
    answers: list[Any] = []
    given_up = threading.Event()

    def ask() -> None:
        try:
            response = urllib.request.urlopen(URL, timeout=DOWNLOAD_SECONDS)
        except OSError:  # urllib's errors and timeouts are OSErrors
            return
        answers.append(response)
        if given_up.is_set():
            response.close()

    # In a thread of its own, for looking a name up knows no time limit, and each redirect has one of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(DOWNLOAD_SECONDS)
    if not answers:
        given_up.set()
        return None
    return answers[0]


def _download(target: Path) -> Path | None:
    """Fetches the weights; None where the server has not answered within 5 s or the file is not the right one."""
    temporary = target.with_suffix(f".{os.getpid()}.tmp")
    try:
        response = _answer()
        if response is None:
            return None
        with response:
            target.parent.mkdir(parents=True, exist_ok=True)
            size = int(response.headers.get("Content-Length") or 0) or None
            with (
                temporary.open("wb") as file,
                Bar(
                    size,
                    "Inception's weights",
                    "B",
                    purpose=f"downloading the weights of Inception, the network behind FID, IS and KID (once; kept in {target.parent})",
                ) as bar,
            ):
                while block := response.read(1 << 18):
                    file.write(block)
                    bar.update(len(block))
        if not sha256_of(temporary).startswith(SHA256_PREFIX):
            return None
        os.replace(temporary, target)
    except OSError:  # urllib's errors and timeouts are OSErrors
        return None
    finally:
        temporary.unlink(missing_ok=True)
    return target


class InceptionExtractor:
    """Layer `2048` of torch-fidelity's network, and logits without bias (`logits_unbiased`) in float64 from it.

    Autocast and TF32 are off. The arithmetic is torch-fidelity's up to rounding (features agree to 1e-6 of their norm), made
    faster: the resize is two matrix products, batch norm is computed in place, tensors are channels-last. Batch norm folded
    into the convolutions is no faster, and rounds the weights once more, alike for all images: 1e-6 of FID and IS − 1.
    Matrix products depend on the batch in their last bits, and float64 puts that below what a score shows.

    `weights`: a state dict in torch-fidelity's format; loaded with `weights_only=True`, never unpickled. `precision`: `bf16`
    computes the convolutions in bfloat16, batch norm folded into them, for monitoring: features are off by about 0.5 % of
    their norm, so the extractor has another name (`inception-bf16`), and with it the scores.
    Raises WeightsError where the file is not such a state dict, UserError for another precision.
    """

    resize = "tf1-bilinear-299"
    dims = 2048

    def __init__(self, weights: Path, *, custom: bool, device: Any = "cpu", precision: str = "fp32") -> None:
        import torch
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        if precision not in PRECISIONS:
            raise UserError(f"the precision of the extractor is {precision!r}; choose from {', '.join(PRECISIONS)}")
        self.precision = precision
        self.name = "inception-custom" if custom else PUBLISHED_INCEPTION
        if precision == "bf16":
            self.name = "inception-custom-bf16" if custom else "inception-bf16"
        self.weights_sha256 = sha256_of(weights)
        self._device = torch.device(device)
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            # torch-fidelity unpickles the file that it is given; so it gets tensors that were loaded safely.
            buffer = io.BytesIO()
            torch.save({key: value for key, value in state.items() if isinstance(value, torch.Tensor)}, buffer)
            buffer.seek(0)
            with torch.random.fork_rng(devices=[]):  # its layers' random initialisation must not move the caller's RNG
                network = FeatureExtractorInceptionV3(self.name, ["2048"], feature_extractor_weights_path=buffer)
        except Exception as error:
            what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise WeightsError(f"cannot load {weights}: {what}; give a state dict like {WEIGHTS_FILE}") from error
        self._weight = network.fc.weight.detach().double().numpy().copy()
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        (_fold_batch_norm if precision == "bf16" else _batch_norm_in_place)(network)
        layers = [getattr(network, name) for name in LAYERS]
        placed = torch.nn.Sequential(*layers).to(device=self._device, dtype=self._dtype)
        self._layers: Any = placed.to(memory_format=torch.channels_last)

    def features(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 1 or 3] -> float32 [n, 2048]; grey is repeated to RGB."""
        # Filled up: for less than a whole block other kernels are chosen, which round in another order.
        return in_blocks(images, block_size(self._device), partial(self._run, wanted=("pooled",)), fill=True)

    def with_spatial(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`features`, and from the same pass those of `inception_spatial`, float32 [n, 2023]."""
        run = partial(self._run, wanted=("spatial", "pooled"))
        both = in_blocks(images, block_size(self._device), run, fill=True)
        return np.ascontiguousarray(both[:, -self.dims :]), np.ascontiguousarray(both[:, : -self.dims])

    def spatial(self, images: np.ndarray) -> np.ndarray:
        """Those of `inception_spatial` alone; the layers after theirs are not run."""
        return in_blocks(images, block_size(self._device), partial(self._run, wanted=("spatial",)), fill=True)

    def _run(self, images: np.ndarray, wanted: tuple[str, ...]) -> np.ndarray:
        """What is wanted of a block, side by side, in the order of the layers."""
        import torch

        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self._device).permute(0, 3, 1, 2)
        with exact_float32(self._device):
            batch = (tf1_bilinear(batch.float(), 299) - 128.0) / 128.0
            if batch.shape[1] == 1:
                batch = batch.expand(-1, 3, -1, -1)
            x = batch.to(self._dtype).contiguous(memory_format=torch.channels_last)
            parts = []
            for name, layer in zip(LAYERS, self._layers, strict=True):
                if "spatial" in wanted and name == SPATIAL_BLOCK:
                    # Position by position, and at each the channels: TensorFlow's order, in which ADM's statistics are.
                    found = layer.branch1x1(x)[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1)
                    parts.append(found.flatten(1))
                    if "pooled" not in wanted:
                        break
                x = layer(x)
            if "pooled" in wanted:
                parts.append(x.float().mean(dim=(2, 3)))
            return torch.cat([part.float() for part in parts], dim=1).cpu().numpy()

    def logits(self, features: np.ndarray) -> np.ndarray:
        """float64 [n, 1008] without the bias, from features [n, 2048]."""
        return features.astype(np.float64) @ self._weight.T


def _batch_norm_in_place(network: Any) -> None:
    """Has each batch norm overwrite its input, with the scale and shift that PyTorch's own computes from its statistics."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d

    class InPlace(torch.nn.Module):
        scale: torch.Tensor
        shift: torch.Tensor

        def __init__(self, norm: torch.nn.BatchNorm2d) -> None:
            super().__init__()
            running_mean, running_var = norm.running_mean, norm.running_var
            assert running_mean is not None
            assert running_var is not None
            with torch.no_grad():
                scale = norm.weight * (1 / torch.sqrt(running_var + norm.eps))
                shift = norm.bias - running_mean * scale
            self.register_buffer("scale", scale[:, None, None])
            self.register_buffer("shift", shift[:, None, None])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.addcmul(self.shift, x, self.scale, out=x)

    for block in network.modules():
        if isinstance(block, BasicConv2d):
            block.bn = InPlace(block.bn)


def _fold_batch_norm(network: Any) -> None:
    """Puts each batch norm's fixed scale and shift into the convolution before it."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d

    for block in network.modules():
        if isinstance(block, BasicConv2d):
            norm, convolution = block.bn, block.conv
            scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
            shift = norm.bias.double() - norm.running_mean.double() * scale
            weight = convolution.weight.double() * scale[:, None, None, None]
            convolution.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
            convolution.bias = torch.nn.Parameter(shift.float(), requires_grad=False)
            block.bn = torch.nn.Identity()
