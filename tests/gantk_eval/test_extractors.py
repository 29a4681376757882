"""DINOv2, CLIP and modules of the user's own: seeded random weights in the real formats, against plain computations."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gantk_eval import ArrayImages, Evaluator, UserError, WeightsError
from gantk_eval.extractors.choice import choose_extractor
from gantk_eval.extractors.own_module import OwnModuleExtractor, name_of_file
from gantk_eval.extractors.state_dicts import kind_of, read_state_dict
from gantk_eval.extractors.vision_transformer import VisionTransformerExtractor, encode, plain_layout
from gantk_eval.extractors.weights import find_transformer
from torch import Tensor, nn

State = dict[str, Tensor]


def pictures(count: int, side: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def random_state(shapes: dict[str, tuple[int, ...]]) -> State:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        fan = math.prod(shape[1:]) if len(shape) > 1 else 16
        state[name] = torch.randn(shape, generator=generator) / math.sqrt(fan)
        if ("norm" in name and name.endswith("weight")) or ("ln_" in name and name.endswith("weight")):
            state[name] += 1.0
    return state


def dino_state(width: int = 384, depth: int = 2, registers: int = 0) -> State:
    """The names and shapes of the authors' files."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + 37 * 37, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    if registers:
        shapes["register_tokens"] = (1, registers, width)
    for n in range(depth):
        for name, out, inside in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            shapes |= {f"blocks.{n}.{name}.weight": (out, inside), f"blocks.{n}.{name}.bias": (out,)}
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{n}.{name}.weight": (width,), f"blocks.{n}.{name}.bias": (width,)}
        shapes |= {f"blocks.{n}.ls1.gamma": (width,), f"blocks.{n}.ls2.gamma": (width,)}
    return random_state(shapes)


def clip_state(depth: int = 2, width: int = 768, patch: int = 32, side: int = 64, out: int = 512) -> State:
    """The names and shapes of OpenAI's files, with a part of the text encoder, which must not matter."""
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (1 + (side // patch) ** 2, width),
        "visual.proj": (width, out),
        "visual.conv1.weight": (width, 3, patch, patch),
        "text_projection": (8, 8),
        "logit_scale": (),
    }
    for name in ("ln_pre", "ln_post"):
        shapes |= {f"visual.{name}.weight": (width,), f"visual.{name}.bias": (width,)}
    for n in range(depth):
        head = f"visual.transformer.resblocks.{n}."
        shapes |= {f"{head}attn.in_proj_weight": (3 * width, width), f"{head}attn.in_proj_bias": (3 * width,)}
        for name, rows, inside in (
            ("attn.out_proj", width, width),
            ("mlp.c_fc", 4 * width, width),
            ("mlp.c_proj", width, 4 * width),
        ):
            shapes |= {f"{head}{name}.weight": (rows, inside), f"{head}{name}.bias": (rows,)}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"{head}{name}.weight": (width,), f"{head}{name}.bias": (width,)}
    return random_state(shapes)


def plainly(x: Tensor, state: State, head: str, heads: int, quick_gelu: bool, epsilon: float) -> Tensor:
    """One block by PyTorch's own multi-head attention, in float64. `head`: OpenAI's names follow it."""
    width = x.shape[-1]

    def norm(value: Tensor, name: str) -> Tensor:
        return F.layer_norm(value, (width,), state[f"{head}{name}.weight"], state[f"{head}{name}.bias"], epsilon)

    attention = nn.MultiheadAttention(width, heads, batch_first=True, dtype=torch.float64)
    attention.in_proj_weight.data.copy_(state[f"{head}attn.in_proj_weight"])
    attention.in_proj_bias.data.copy_(state[f"{head}attn.in_proj_bias"])
    attention.out_proj.weight.data.copy_(state[f"{head}attn.out_proj.weight"])
    attention.out_proj.bias.data.copy_(state[f"{head}attn.out_proj.bias"])
    inner = norm(x, "ln_1")
    x = x + attention(inner, inner, inner, need_weights=False)[0] * state.get(f"{head}ls1.gamma", 1.0)
    inner = norm(x, "ln_2") @ state[f"{head}mlp.c_fc.weight"].T + state[f"{head}mlp.c_fc.bias"]
    inner = inner * torch.sigmoid(1.702 * inner) if quick_gelu else F.gelu(inner)
    inner = inner @ state[f"{head}mlp.c_proj.weight"].T + state[f"{head}mlp.c_proj.bias"]
    return x + inner * state.get(f"{head}ls2.gamma", 1.0)


def close(mine: Tensor, expected: Tensor) -> bool:
    error = (mine.double() - expected).norm(dim=1) / expected.norm(dim=1)
    assert (expected[0] - expected[1]).norm() > 0.01 * expected[0].norm()  # else the test could not fail
    return bool(error.max() <= 1e-5)


@torch.no_grad()
def test_clip_is_a_plain_computation() -> None:
    state = clip_state()
    pixels = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    family, plain = plain_layout(state)
    mine = encode(plain, pixels, family=family, quick_gelu=True)
    double = {name: value.double() for name, value in state.items()}
    x = F.conv2d(pixels.double(), double["visual.conv1.weight"], stride=32).flatten(2).transpose(1, 2)
    x = torch.cat([double["visual.class_embedding"].expand(3, 1, -1), x], dim=1) + double["visual.positional_embedding"]
    x = F.layer_norm(x, (768,), double["visual.ln_pre.weight"], double["visual.ln_pre.bias"])
    for n in range(2):
        x = plainly(x, double, f"visual.transformer.resblocks.{n}.", 12, True, 1e-5)
    x = F.layer_norm(x[:, 0], (768,), double["visual.ln_post.weight"], double["visual.ln_post.bias"])
    assert family == "clip"
    assert close(mine, x @ double["visual.proj"])


@torch.no_grad()
@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_is_a_plain_computation(registers: int) -> None:
    state = dino_state(registers=registers)
    pixels = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    family, plain = plain_layout(state)
    mine = encode(plain, pixels, family=family, quick_gelu=False)
    names = {
        "attn.qkv.weight": "attn.in_proj_weight",
        "attn.qkv.bias": "attn.in_proj_bias",
        "attn.proj": "attn.out_proj",
    }
    names |= {"norm1": "ln_1", "norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    double = {}
    for name, value in state.items():
        for old, new in names.items():
            name = name.replace(old, new)
        double[name] = value.double()
    x = F.conv2d(pixels.double(), state["patch_embed.proj.weight"].double(), double["patch_embed.proj.bias"], stride=14)
    x = x.flatten(2).transpose(1, 2)
    square = double["pos_embed"][:, 1:].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
    if registers:
        square = F.interpolate(square, size=(4, 4), mode="bicubic", antialias=True)
    else:
        square = F.interpolate(square, scale_factor=(4.1 / 37, 4.1 / 37), mode="bicubic")
    position = torch.cat([double["pos_embed"][:, :1], square.permute(0, 2, 3, 1).reshape(1, 16, 384)], dim=1)
    x = torch.cat([double["cls_token"].expand(3, -1, -1), x], dim=1) + position
    if registers:
        x = torch.cat([x[:, :1], double["register_tokens"].expand(3, -1, -1), x[:, 1:]], dim=1)
    for n in range(2):
        x = plainly(x, double, f"blocks.{n}.", 6, False, 1e-6)
    x = F.layer_norm(x[:, 0], (384,), double["norm.weight"], double["norm.bias"], 1e-6)
    assert family == "dinov2"
    assert close(mine, x)


@torch.no_grad()
def test_the_layouts_of_transformers_are_the_same_networks() -> None:
    """The same tensors under Hugging Face's names give the same features."""
    clip, hub = clip_state(), {}
    for name, value in clip.items():
        name = name.replace("visual.transformer.resblocks.", "vision_model.encoder.layers.")
        if name.endswith(("in_proj_weight", "in_proj_bias")):
            kind = name.rpartition("_")[2]
            stem = name.partition("attn.")[0]
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                hub[f"{stem}self_attn.{part}_proj.{kind}"] = piece
            continue
        for old, new in (
            ("attn.out_proj", "self_attn.out_proj"),
            ("ln_1", "layer_norm1"),
            ("ln_2", "layer_norm2"),
            ("mlp.c_fc", "mlp.fc1"),
            ("mlp.c_proj", "mlp.fc2"),
            ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
            ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
            ("visual.conv1", "vision_model.embeddings.patch_embedding"),
            ("visual.ln_pre", "vision_model.pre_layrnorm"),
            ("visual.ln_post", "vision_model.post_layernorm"),
        ):
            name = name.replace(old, new)
        if name == "visual.proj":
            name, value = "visual_projection.weight", value.T
        hub[name] = value
    dino, renamed = dino_state(), {}
    for name, value in dino.items():
        name = name.replace("blocks.", "encoder.layer.")
        if "attn.qkv" in name:
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[name.replace("attn.qkv", f"attention.attention.{part}")] = piece
            continue
        for old, new in (
            ("attn.proj", "attention.output.dense"),
            ("ls1.gamma", "layer_scale1.lambda1"),
            ("ls2.gamma", "layer_scale2.lambda1"),
            ("cls_token", "embeddings.cls_token"),
            ("pos_embed", "embeddings.position_embeddings"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ):
            name = name.replace(old, new)
        renamed["layernorm" + name.removeprefix("norm") if name.startswith("norm.") else name] = value
    square = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    first, second = (encode(plain_layout(s)[1], square, family="dinov2", quick_gelu=False) for s in (dino, renamed))
    assert torch.equal(first, second)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    first, second = (encode(plain_layout(s)[1], pixels, family="clip", quick_gelu=True) for s in (clip, hub))
    assert torch.equal(first, second)


@torch.no_grad()
def test_transformers_own_models_agree(tmp_path: Path) -> None:
    """Where that library is installed: its models with random weights, saved as it saves them."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 224, 224)
    config = transformers.CLIPVisionConfig(num_hidden_layers=2, initializer_range=0.3)
    clip = transformers.CLIPVisionModelWithProjection(config).eval()
    clip.save_pretrained(tmp_path / "clip")
    plain = plain_layout(read_state_dict(tmp_path / "clip" / "model.safetensors"))[1]
    mine = encode(plain, pixels, family="clip", quick_gelu=True)
    assert close(mine, clip(pixels).image_embeds.double())
    dino_config = transformers.Dinov2Config(
        hidden_size=384, num_attention_heads=6, num_hidden_layers=2, image_size=224, patch_size=14
    )
    dino = transformers.Dinov2Model(dino_config).eval()
    for parameter in dino.parameters():
        parameter.data.normal_(0.0, 0.1)
    dino.save_pretrained(tmp_path / "dino")
    plain = plain_layout(read_state_dict(tmp_path / "dino" / "model.safetensors"))[1]
    mine = encode(plain, pixels, family="dinov2", quick_gelu=False)
    assert close(mine, dino(pixels).pooler_output.double())


def test_features_of_files_do_not_depend_on_the_batch_or_the_format(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = clip_state(depth=1)
    torch.save(state, tmp_path / "clip.pth")
    save_file(state, tmp_path / "clip.safetensors")
    extractor = VisionTransformerExtractor(tmp_path / "clip.pth")
    assert (extractor.name, extractor.dims, extractor.resize) == ("clip-vitb32", 512, "bicubic-antialias-64")
    images = pictures(18, 20)
    together = extractor.features(images)
    assert together.dtype == np.float32
    assert np.array_equal(extractor.features(images[16:]), together[16:])
    assert np.array_equal(VisionTransformerExtractor(tmp_path / "clip.safetensors").features(images[:2]), together[:2])
    grey = pictures(2, 20, channels=1)
    assert np.array_equal(extractor.features(grey), extractor.features(np.repeat(grey, 3, axis=3)))
    (tmp_path / "config.json").write_text('{"vision_config": {"hidden_act": "gelu"}}')
    other = VisionTransformerExtractor(tmp_path / "clip.pth")
    assert other.name == "clip-vitb32-gelu"
    assert not np.allclose(other.features(images[:2]), together[:2], rtol=1e-3)


def test_weights_are_found_where_they_are_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with pytest.raises(WeightsError, match=r"dinov2_vitl14_pretrain\.pth.*GANTK_DINOV2_WEIGHTS"):
        find_transformer("dinov2")
    hub = tmp_path / "hf" / "hub" / "models--facebook--dinov2-base" / "snapshots" / "abc" / "model.safetensors"
    hub.parent.mkdir(parents=True)
    hub.write_bytes(b"x")
    assert find_transformer("dinov2") == hub
    folder = tmp_path / "weights"
    folder.mkdir(exist_ok=True)
    (folder / "dinov2_vits14_pretrain.pth").write_bytes(b"x")
    assert find_transformer("dinov2") == folder / "dinov2_vits14_pretrain.pth"
    monkeypatch.setenv("GANTK_DINOV2_WEIGHTS", str(tmp_path / "nowhere.pth"))
    with pytest.raises(WeightsError, match=r"nowhere\.pth"):
        find_transformer("dinov2")


class Moments(nn.Module):
    """Means and deviations of each channel: a network small enough to be checked by hand."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.float() / 255.0
        return torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3))], dim=1)


def own_files(folder: Path) -> dict[str, Path]:
    torch.jit.script(Moments()).save(str(folder / "My Net.pt"))
    example = torch.zeros(4, 3, 12, 12, dtype=torch.uint8)
    dynamic = torch.export.export(Moments(), (example,), dynamic_shapes=({0: torch.export.Dim("n", min=2, max=4096)},))
    torch.export.save(dynamic, folder / "dynamic.pt2")
    torch.export.save(torch.export.export(Moments(), (example,)), folder / "fixed.pt2")
    return {name: folder / name for name in ("My Net.pt", "dynamic.pt2", "fixed.pt2")}


def test_a_module_of_ones_own(tmp_path: Path) -> None:
    images = pictures(21, 12)
    scaled = images.astype(np.float64) / 255.0
    expected = np.concatenate([scaled.mean(axis=(1, 2)), scaled.std(axis=(1, 2), ddof=1)], axis=1)
    kinds = {"My Net.pt": "torchscript", "dynamic.pt2": "export", "fixed.pt2": "export"}
    for name, path in own_files(tmp_path).items():
        assert kind_of(path) == kinds[name]
        extractor = OwnModuleExtractor(path, shape=(12, 12))
        assert extractor.dims == 6
        assert np.allclose(extractor.features(images), expected, rtol=1e-5), name
    reference, fake = ArrayImages(images), ArrayImages(pictures(20, 12, seed=1))
    evaluator = Evaluator(reference, extractor=tmp_path / "My Net.pt", metrics=["density", "fd_my-net"], collapse=False)
    report = evaluator.evaluate(fake)
    assert set(report.metrics) == {"density_my-net", "fd_my-net"}
    assert report.protocol["extractor"] == "my-net"
    default = Evaluator(reference, extractor=tmp_path / "fixed.pt2", collapse=False).evaluate(fake)
    assert {"fd_fixed", "kd_fixed", "coverage_fixed"} <= set(default.metrics)
    assert not {"fid", "is"} & set(default.metrics)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("My Net.pt", "my-net"),
        ("inception-v3-compat.pt", "own-inception-v3-compat"),
        ("Inception_v3_compat.pt2", "own-inception-v3-compat"),
        ("clip.pt", "own-clip"),
        ("clip-of-mine.pt", "clip-of-mine"),
        ("....pt", "module"),
    ],
)
def test_no_file_lends_its_scores_the_name_of_another_network(file: str, name: str) -> None:
    assert name_of_file(Path(file)) == name


def test_own_modules_that_do_not_fit_are_told(tmp_path: Path) -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float().mean()

    class Whole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, torch.zeros(4, 12))

    for module, words in (
        (Flat(), "returns torch.float32"),
        (Whole(), "returns torch.uint8"),
        (Picky(), "fails on uint8"),
    ):
        torch.jit.script(module).save(str(tmp_path / "net.pt"))
        with pytest.raises(WeightsError, match=words):
            OwnModuleExtractor(tmp_path / "net.pt", shape=(12, 12))


def test_what_extractor_means(tmp_path: Path, inception_weights: Path) -> None:
    torch.save(dino_state(depth=1), tmp_path / "a.pth")
    torch.save({"state_dict": {f"module.{k}": v for k, v in clip_state(depth=1).items()}}, tmp_path / "b.pth")
    assert choose_extractor("dinov2").file is None
    assert choose_extractor(tmp_path / "a.pth").name == "dinov2"
    assert choose_extractor(tmp_path / "b.pth").name == "clip"
    assert choose_extractor(inception_weights).name == "inception"
    files = own_files(tmp_path)
    assert choose_extractor(files["fixed.pt2"]).own
    assert choose_extractor(files["My Net.pt"]).name == "my-net"
    torch.jit.script(Moments()).save(str(tmp_path / "clip.pt"))  # a name that is taken
    assert choose_extractor(tmp_path / "clip.pt").name == "own-clip"
    torch.save({"x": torch.zeros(2)}, tmp_path / "c.pth")
    (tmp_path / "d.pth").write_text("hello")
    for wanted, error, words in (
        ("dinov9", UserError, "choose from inception, dinov2"),
        (tmp_path / "c.pth", WeightsError, "names that are not"),
        (tmp_path / "d.pth", WeightsError, "neither weights"),
    ):
        with pytest.raises(error, match=words):
            choose_extractor(wanted)
    state = dino_state(depth=1)
    del state["blocks.0.norm2.bias"]
    torch.save(state, tmp_path / "e.pth")
    with pytest.raises(WeightsError, match=r"e\.pth: it lacks blocks\.0\.norm2\.bias"):
        VisionTransformerExtractor(tmp_path / "e.pth")


def test_no_file_is_unpickled(tmp_path: Path) -> None:
    import io
    import zipfile

    class Payload:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"x": Payload()}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=r"bad\.pth"):
        choose_extractor(tmp_path / "bad.pth")
    # A torch.export file whose weights are replaced by a pickle, which torch.export would fall back to running.
    good = own_files(tmp_path)["fixed.pt2"]
    buffer = io.BytesIO()
    torch.save({"x": Payload()}, buffer)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(
                name, buffer.getvalue() if name.endswith((".pt", "weight_0", "constants/model.pt")) else data
            )
    with contextlib.suppress(WeightsError):
        OwnModuleExtractor(tmp_path / "bad.pt2", shape=(12, 12))
    assert not (tmp_path / "executed").exists()
