"""What a user sees: for each mistake one sentence on stderr, nothing on stdout, the documented exit code."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gantk_eval.errors import DataError
from gantk_eval.report import Report
from PIL import Image

from gantk.cli import main

ROOT = Path(__file__).resolve().parents[2]
TINY = str(ROOT / "configs" / "tiny.yaml")
SHORT = ("train.kimg=0.128", "evaluate.every_kimg=99", "checkpoint.every_kimg=0.064")


class Result:
    def __init__(self, code: int | None, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def gantk(capfd: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """`gantk("train", "--config", …)`: the command line in this process."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Result(stop.value.code or 0, out, err)  # type: ignore[arg-type]

    return run


def refused(result: Result, code: int, *words: str) -> None:
    """It ended with `code`, an empty stdout, and as the last line of stderr a sentence that has the `words`."""
    assert result.code == code, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    said = [line for line in result.err.splitlines() if line.startswith("gantk: ")]
    assert len(said) == 1, result.err
    text = result.err[result.err.index("gantk: ") :]
    for word in words:
        assert word in text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight pictures in two classes."""
    generator = np.random.default_rng(0)
    for number in range(8):
        path = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    return tmp_path / "pictures"


def data(**keys: object) -> str:
    return "data=" + json.dumps({"resolution": 8, **keys})


# The config


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trian.kimg=1", ("tiny.yaml: `trian` is not a key; did you mean `train`?",)),
        ("train.kimgs=1", ("`train.kimgs` is not a key; did you mean `kimg`?",)),
        ("network.widht=1", ("`network.widht` is not a key; did you mean `width`?",)),
        ("optimizer.lr=quick", ("`optimizer.lr`: input should be a valid number",)),
        ("data.resolution=33", ("`data.resolution: 33` is not 4 … 7 times a power of two", "use 32 or 40")),
        ("train.kimg", ("`train.kimg` is not an override",)),
        ("train.precision=fp16", ("`train.precision: fp16` needs a GPU",)),
        ("train.batch_size=33", ("does not divide by", "make it a multiple of")),
    ],
)
@pytest.mark.parametrize("command", ["train", "config"])
def test_wrong_config(command: str, override: str, words: tuple[str, ...], gantk) -> None:  # type: ignore[no-untyped-def]
    extra = ("train.accumulation=1",)
    if "batch_size" in override:
        extra, words = ("train.accumulation=2",), ("`train.batch_size: 33` does not divide by `train.accumulation: 2`",)
    refused(gantk(command, "--config", TINY, override, *extra), 2, *words)
    assert not (Path(os.environ["GANTK_RUNS"])).exists()


def test_several_errors_come_at_once(gantk) -> None:  # type: ignore[no-untyped-def]
    result = gantk("train", "--config", TINY, "trian.x=1", "network.widht=2", "optimizer.lr=-1")
    refused(result, 2, "has 3 errors", "`trian`", "`network.widht`", "`optimizer.lr`")


def test_config_that_is_missing(gantk) -> None:  # type: ignore[no-untyped-def]
    refused(
        gantk("train", "--config", ROOT / "configs" / "tinny.yaml"),
        2,
        "there is no config file",
        "did you mean",
        "tiny.yaml?",
    )


def test_config_that_is_not_yaml(tmp_path: Path, gantk) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "c.yaml").write_text("name: x\ntrain: [1\n")
    refused(gantk("config", "--config", tmp_path / "c.yaml"), 2, "c.yaml, line 3 is not valid YAML")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_fp16_on_a_cpu(device: str, gantk) -> None:  # type: ignore[no-untyped-def]
    refused(
        gantk("train", "--config", TINY, "train.precision=fp16", f"train.device={device}"),
        2,
        "`train.precision: fp16` needs a",
    )


def test_conditional_network_without_labels(folder: Path, gantk) -> None:  # type: ignore[no-untyped-def]
    network = "network={type: conditional_dcgan, width: 4, hidden_dim: 8}"
    flat = folder / "a"
    refused(
        gantk("train", "--config", TINY, data(source="folder", path=str(flat)), network, "train.batch_size=2"),
        2, "`network.type: conditional_dcgan` is conditional, but the data has no labels", "`data.label_column`",
    )  # fmt: skip
    refused(gantk("train", "--config", TINY, network, "data.use_labels=false"), 2, "`data.use_labels` is false")


# The data


def test_empty_folder(tmp_path: Path, gantk) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "empty").mkdir()
    refused(
        gantk("train", "--config", TINY, data(source="folder", path=str(tmp_path / "empty"))),
        3,
        str(tmp_path / "empty"),
    )
    refused(
        gantk("train", "--config", TINY, data(source="folder", path=str(tmp_path / "gone"))), 3, str(tmp_path / "gone")
    )


def test_corrupt_image_is_named(folder: Path, gantk) -> None:  # type: ignore[no-untyped-def]
    (folder / "a" / "4.png").write_bytes((folder / "a" / "4.png").read_bytes()[:40])
    refused(
        gantk("train", "--config", TINY, data(source="folder", path=str(folder)), "train.batch_size=2"),
        3, str(folder / "a" / "4.png"),
    )  # fmt: skip


@pytest.mark.parametrize("command", ["train"])
def test_fewer_images_than_a_batch(command: str, folder: Path, gantk) -> None:  # type: ignore[no-untyped-def]
    refused(
        gantk(command, "--config", TINY, data(source="folder", path=str(folder))),
        3, "training images, fewer than `train.batch_size: 32`: lower it, or add images",
    )  # fmt: skip


def test_label_column_that_is_missing(tmp_path: Path, gantk) -> None:  # type: ignore[no-untyped-def]
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(buffer, "PNG")
    table = pa.table({"image": [{"bytes": buffer.getvalue(), "path": None}] * 4, "digit": [0, 1, 0, 1]})
    pq.write_table(table, tmp_path / "d.parquet")
    refused(
        gantk("train", "--config", TINY, data(source="parquet", path=str(tmp_path / "d.parquet"), label_column="label")),
        3, "label", "digit",
    )  # fmt: skip


def test_hub_id_without_a_network(gantk) -> None:  # type: ignore[no-untyped-def]
    begin = time.monotonic()
    refused(
        gantk("train", "--config", TINY, data(source="hub", path="nobody/nothing-like-this")),
        3,
        "nobody/nothing-like-this",
    )
    assert time.monotonic() - begin < 20


def test_the_lsun_config_offline_gives_advice_that_loads(gantk) -> None:  # type: ignore[no-untyped-def]
    config = ROOT / "configs" / "dcgan_lsun.yaml"
    begin = time.monotonic()
    result = gantk("train", "--config", config)
    refused(result, 3, "pcuenq/lsun-bedrooms at revision 274fa3d", "is not on this disk and the hub cannot be reached")
    assert time.monotonic() - begin < 60
    advice = re.findall(r"data\.\w+=\S+", result.err)
    assert advice == ["data.source=folder", "data.path=FOLDER", "data.revision=null", "data.heldout_split=null"]
    assert gantk("config", "--config", config, *advice).code == 0
    # What goes with the hub goes with it; what is given beside another source is refused, with what takes it out.
    assert gantk("config", "--config", config, *advice[:2]).code == 0
    given = ("data.name=x", "data.split=test")
    half = gantk("config", "--config", config, *advice[:2], *given)
    refused(half, 2, "`name`, `split`: of `source: hub` alone")
    rest = re.findall(r"data\.\w+=\S+", half.err)
    assert rest == ["data.name=null", "data.split=train"]
    assert gantk("config", "--config", config, *advice[:2], *given, *rest).code == 0


def test_prepare_says_which_commit_it_has(
    folder: Path,
    gantk,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`configs/dcgan_celeba.yaml` speaks of it."""
    import datasets

    commit = "0123456789abcdef" * 2 + "01234567"
    encoded = [{"bytes": path.read_bytes(), "path": None} for path in sorted(folder.rglob("*.png"))]
    train = datasets.Dataset.from_dict({"image": encoded}, features=datasets.Features({"image": datasets.Image()}))
    file = f"/huggingface/datasets/owner___faces/default/0.0.0/{commit}/faces-train.arrow"
    monkeypatch.setattr(type(train), "cache_files", property(lambda self: [{"filename": file}]))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(train=train))
    where = data(source="hub", path="owner/faces", heldout_fraction=0.25)
    result = gantk("prepare", "--config", TINY, where)
    assert (result.code, result.out.splitlines()[1:]) == (
        0,
        [f"the hub's commit of owner/faces, to pin it by: data.revision={commit}"],
    )
    pinned = gantk("prepare", "--config", TINY, where, f"data.revision={commit}")
    assert f"data.revision={commit}" in pinned.out
    assert len(gantk("prepare", "--config", TINY).out.splitlines()) == 1


# Checkpoints


@pytest.fixture
def run(gantk) -> Path:  # type: ignore[no-untyped-def]
    result = gantk("train", "--config", TINY, *SHORT, "--name", "run42")
    assert result.code == 0, result.err
    assert result.out == ""
    return Path(os.environ["GANTK_RUNS"]) / "run42"


def test_the_way_it_should_go(run: Path, tmp_path: Path, gantk) -> None:  # type: ignore[no-untyped-def]
    sampled = gantk("sample", "--ckpt", "run42", "--out", tmp_path / "out", "--count", 5)
    assert (sampled.code, sampled.out) == (0, f"{tmp_path / 'out'}\n"), sampled.err
    assert len(list((tmp_path / "out").iterdir())) == 5
    exported = gantk("export", "--ckpt", "run42", "--out", tmp_path / "generator")
    assert (exported.code, exported.out) == (0, f"{tmp_path / 'generator'}\n"), exported.err
    assert f"exporting checkpoint {run / 'checkpoints' / 'step-00000004'} (0.128 kimg)" in exported.err
    again = gantk("sample", "--ckpt", tmp_path / "generator", "--out", tmp_path / "a.npz", "--count", 5)
    assert again.code == 0, again.err
    assert "exported generator" in again.err
    pictures = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").iterdir())]
    assert np.array_equal(np.stack(pictures), np.load(tmp_path / "a.npz")["images"][:, :, :, 0])
    listed = gantk("list")
    assert listed.code == 0
    assert "run42                    completed, 0.128 kimg" in listed.out
    assert "nonsaturating" in listed.out


def test_train_again_and_go_on(run: Path, gantk) -> None:  # type: ignore[no-untyped-def]
    assert gantk("train", "--config", TINY, *SHORT, "--name", "run42").code == 0
    refused(
        gantk("train", "--config", TINY, *SHORT, "--name", "run42", "--resume", "never"), 2, "run42 is there already"
    )
    changed = (*SHORT, "train.kimg=0.192", "optimizer.lr=1e-3")
    refused(
        gantk("train", "--config", TINY, *changed, "--name", "run42"),
        4, "the config differs", "optimizer.lr: 0.0002 → 0.001", "--allow-changes",
    )  # fmt: skip
    assert gantk("train", "--config", TINY, *changed, "--name", "run42", "--allow-changes").code == 0
    refused(gantk("train", "--config", TINY, *SHORT, "--resume", "run43"), 4, "`run43`; the runs there are: run42")


@pytest.mark.parametrize("command", ["eval", "sample", "export"])
def test_checkpoint_that_is_missing_lists_the_runs(command: str, run: Path, tmp_path: Path, gantk) -> None:  # type: ignore[no-untyped-def]
    out = ("--out", tmp_path / "out") if command != "eval" else ()
    refused(
        gantk(command, "--ckpt", "run41", *out), 4, "there is no run or checkpoint `run41`; the runs there are: run42"
    )
    refused(gantk(command, "--ckpt", "run42@best", *out), 4, "has no best checkpoint")
    refused(gantk(command, "--ckpt", "run42@step-00000003", *out), 4, "there are: step-00000002, step-00000004")
    assert not (tmp_path / "out").exists()


def test_damaged_checkpoint(run: Path, tmp_path: Path, gantk) -> None:  # type: ignore[no-untyped-def]
    newest = run / "checkpoints" / "step-00000004"
    file = newest / "generator.ema.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    refused(gantk("sample", "--ckpt", newest, "--out", tmp_path / "a.png"), 4, f"{file} is damaged")
    refused(gantk("train", "--config", TINY, *SHORT, "--name", "run42", "--resume", newest), 4, f"{file} is damaged")


def test_sampling_mistakes(run: Path, tmp_path: Path, gantk) -> None:  # type: ignore[no-untyped-def]
    refused(
        gantk("sample", "--ckpt", "run42", "--out", tmp_path / "a.jpg"), 2, "give a folder, a file that ends in .png"
    )
    refused(
        gantk("sample", "--ckpt", "run42", "--out", tmp_path / "a.png", "--label", "3"),
        2,
        "`--label` goes with a conditional",
    )
    refused(
        gantk("sample", "--ckpt", "run42", "--out", tmp_path / "a.png", "--device", "tpu"),
        2,
        "`--device tpu` is not known",
    )
    assert gantk("sample", "--ckpt", "run42", "--out", tmp_path / "a.png", "--count", 0).code == 2
    (tmp_path / "there").mkdir()
    refused(gantk("export", "--ckpt", "run42", "--out", tmp_path / "there"), 2, "is there already")


def test_a_full_disk(run: Path, tmp_path: Path, gantk, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """Exit code 3, and nothing half-written."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gantk.records.os.fsync", full)
    for name in ("a.npz", "a.png"):
        refused(gantk("sample", "--ckpt", "run42", "--out", tmp_path / name), 3, "No space left on device; make room")
    assert not list(tmp_path.glob("*a.*"))
    saved: list[Path] = []

    def breaks_off(self: Image.Image, path: Path) -> None:
        saved.append(path)
        path.write_bytes(b"half")
        if len(saved) == 3:
            full()

    monkeypatch.setattr(Image.Image, "save", breaks_off)
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "new", tmp_path / "empty"):
        saved.clear()
        refused(gantk("sample", "--ckpt", "run42", "--out", out), 3, "cannot write the result", "make room")
        assert len(saved) == 3
    assert list((tmp_path / "empty").iterdir()) == []
    assert not list(tmp_path.glob("*new*"))


# Evaluation


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give either `--ckpt RUN`"),
        (("--ckpt", "a", "--images", "b"), "give either `--ckpt RUN`"),
        (("--images", "b"), "`--images` needs `--reference PATH`"),
        (("--ckpt", "a", "--reference", "b"), "`--reference` and `--heldout` go with `--images`"),
        (("--images", "a", "--reference", "b", "--samples", "5"), "`--samples` goes with `--ckpt`"),
        (("--ckpt", "a", "--fail-on", "fire"), "`--fail-on fire` is not known"),
        (("--images", "a", "--reference", "b", "--fail-on", "collapse"), "`--fail-on collapse` needs `--heldout PATH`"),
        (("--images", "a", "--reference", "b", "--verify", "--fail-on", "collapse"), "`--verify` compares scores"),
        (("--ckpt", "a", "--image-column", "b"), "`--image-column` and `--label-column` go with `--images`"),
        (("--ckpt", "a", "--picture", "a.jpg"), "`--picture a.jpg` cannot be written"),
        (("--ckpt", "a", "--picture", "no/such/folder/a.png"), "name a .png file in a folder that is there"),
    ],
)
def test_evaluation_options_that_do_not_go_together(arguments: tuple[str, ...], words: str, gantk) -> None:  # type: ignore[no-untyped-def]
    refused(gantk("eval", *arguments), 2, words)


def test_a_collapse_fails_where_it_is_asked_to(tmp_path: Path, gantk) -> None:  # type: ignore[no-untyped-def]
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (1200, 2, 2, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    images = (coarse + generator.integers(-20, 20, coarse.shape)).clip(0, 255).astype(np.uint8)
    for name, pixels in {
        "reference": images[:400], "heldout": images[400:800], "healthy": images[800:], "collapsed": images[800:810].repeat(40, 0),
    }.items():  # fmt: skip
        np.savez(tmp_path / f"{name}.npz", images=pixels)

    def score(name: str, *more: str) -> Any:
        paths = ("--images", tmp_path / f"{name}.npz", "--reference", tmp_path / "reference.npz")
        return gantk("eval", *paths, "--heldout", tmp_path / "heldout.npz", "--metrics", "fd_pixel_pca", *more)

    result = score("collapsed", "--fail-on", "collapse")
    assert result.code == 6, result.err
    assert "400 of 400 samples are near-duplicates" in result.out
    assert "the verdict is `collapsed`" in result.err
    assert score("healthy", "--fail-on", "collapse").code == 0
    assert score("collapsed").code == 0


def test_held_out_images_that_are_the_reference_are_refused(gantk, folder: Path) -> None:  # type: ignore[no-untyped-def]
    again = folder / ".." / folder.name
    result = gantk("eval", "--images", folder / "b", "--reference", folder, "--heldout", again, "--device", "cpu")
    refused(result, 3, f"`--heldout {again}` is the reference itself: name other real images")


def test_odd_images_are_told(gantk, folder: Path) -> None:  # type: ignore[no-untyped-def]
    Image.open(folder / "a" / "0.png").convert("LA").save(folder / "a" / "0.png")
    command = ("eval", "--images", folder / "b", "--reference", folder, "--metrics", "fd_pixel_pca", "--device", "cpu")
    result = gantk(*command)
    assert result.code == 0, result.err
    told = f"{folder}: 1 of 8 images have an alpha channel or a transparent colour, and are laid over white"
    assert told in result.err.splitlines()
    assert result.err.count("images have") == 1


def test_columns_and_files_that_are_left_aside(gantk, folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [(folder / "b" / f"{number}.png").read_bytes() for number in (1, 3, 5, 7)]
    pq.write_table(pa.table({"one": images, "other": images, "label": [0.5, 1.5, 2.5, 3.5]}), tmp_path / "two.parquet")
    (folder / "notes.txt").write_text("no image")
    command = ["eval", "--images", tmp_path / "two.parquet", "--reference", folder, "--metrics", "fd_pixel_pca"]
    refused(gantk(*command, "--device", "cpu"), 3, "one, other", "--image-column")
    result = gantk(*command, "--device", "cpu", "--image-column", "other")
    assert result.code == 0, result.err
    assert "column `label`" in result.err
    assert f"{folder}: 1 file that is not an image is left out (.txt: 1)" in result.err.splitlines()
    refused(gantk(*command, "--device", "cpu", "--image-column", "third"), 3, "no column `third`")


def test_images_that_were_skipped_stand_in_the_result(gantk, folder: Path) -> None:  # type: ignore[no-untyped-def]
    whole = (folder / "b" / "1.png").read_bytes()
    (folder / "b" / "3.png").write_bytes(whole[: len(whole) // 2])
    (folder / "b" / "5.png").write_text("no image")
    command = ["eval", "--images", folder / "b", "--reference", folder / "a", "--metrics", "fd_pixel_pca", "--json"]
    refused(gantk(*command, "--device", "cpu"), 3, "5.png")
    result = gantk(*command, "--device", "cpu", "--skip-unreadable")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["skipped"] == {
        "images": {"count": 2, "first": [str(folder / "b" / "3.png"), str(folder / "b" / "5.png")]}
    }
    assert found["protocol"]["n_fake"] == 2
    assert "2 of 4 images cannot be read and are left out" in result.err


def test_the_cross_check_skips_unreadable_images(gantk, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    from gantk_eval.verify import Verification

    from gantk import scoring

    def seen(fake, reference, *arguments: object, **options: object) -> Verification:  # type: ignore[no-untyped-def]
        return Verification([], 0.0, len(fake.read(range(len(fake)))), len(reference), "inception")

    monkeypatch.setattr(scoring, "verify", seen)
    monkeypatch.setattr(scoring, "find_weights", lambda file: (Path("weights.pth"), True))
    (folder / "b" / "5.png").write_text("no image")
    command = ["eval", "--verify", "--images", folder / "b", "--reference", folder / "a", "--json", "--device", "cpu"]
    refused(gantk(*command), 3, "5.png")
    result = gantk(*command, "--skip-unreadable")
    assert result.code == 0, result.err
    assert json.loads(result.out)["n_fake"] == 3
    assert "1 of 4 images cannot be read and are left out" in result.err


def test_a_picture_of_the_verdict_is_written(gantk, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    generator = np.random.default_rng(0)
    for name, count in (("fake", 60), ("real", 120), ("held", 60)):
        np.save(tmp_path / f"{name}.npy", generator.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8))
    sets = [f"--{o}={tmp_path / n}.npy" for o, n in (("images", "fake"), ("reference", "real"), ("heldout", "held"))]
    command = ["eval", *sets, "--metrics", "fd_pixel_pca", "--device", "cpu", "--picture", tmp_path / "seen.png"]
    result = gantk(*command)
    assert result.code == 0, result.err
    with Image.open(tmp_path / "seen.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 50
        assert len(np.unique(np.asarray(picture.convert("L")))) > 2


def report_of(verdict: str, picture: bytes | None, tests: int = 1) -> Report:
    collapse = {"verdict": verdict, "reasons": ["mode a is lost"], "missing": [], "tests": []}
    if tests:
        collapse["tests"] = [{"name": "lost_modes", "effect": 1.0, "p_adjusted": 0.0}]
    return Report({}, collapse, {"fingerprint": "0", "extractor": "x", "precision": "fp32"}, picture=picture)


@pytest.mark.parametrize("picture", [None, b"picture"])
def test_a_collapse_exits_6_whatever_becomes_of_the_picture(
    gantk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: bytes | None
) -> None:  # type: ignore[no-untyped-def]
    from gantk import scoring

    place = tmp_path / "seen.png"
    place.mkdir()  # nothing can be written there
    found = {"collapsed": report_of("collapsed", picture), "ok": report_of("ok", picture)}
    sentence = "there is no picture to write to" if picture is None else "cannot write"
    for verdict, code in (("collapsed", 6), ("ok", 3)):
        outcome = scoring.Outcome(found[verdict], [])
        monkeypatch.setattr(scoring, "evaluate_checkpoint", lambda *_, _outcome=outcome, **__: _outcome)
        result = gantk("eval", "--ckpt", "a", "--picture", place, "--fail-on", "collapse")
        assert result.code == code, result.err
        assert sentence in result.err
        assert ("the verdict is `collapsed`" in result.err) == (code == 6)


def test_why_there_is_no_picture_is_true(tmp_path: Path) -> None:
    from gantk.scoring import write_picture

    untested = report_of("inconclusive", None, tests=0)
    with pytest.raises(DataError, match=r"seen\.png: mode a is lost"):
        write_picture(tmp_path / "seen.png", untested)
    with pytest.raises(DataError, match=r"seen\.png: none was drawn"):
        write_picture(tmp_path / "seen.png", report_of("inconclusive", None))


def test_images_beside_statistics_are_for_what_needs_them(tmp_path: Path, gantk) -> None:  # type: ignore[no-untyped-def]
    """As ADM's reference batches have both."""
    pixels = np.random.default_rng(0).integers(0, 256, (220, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "adm.npz", arr_0=pixels[:120], mu=np.zeros(2048), sigma=np.eye(2048))
    np.savez(tmp_path / "fake.npz", images=pixels[120:])
    command = ("eval", "--images", tmp_path / "fake.npz", "--reference", tmp_path / "adm.npz", "--json")
    result = gantk(*command, "--metrics", "kd_pixel_pca", "--kid-subset-size", 50)
    assert result.code == 0, result.err
    assert json.loads(result.out)["protocol"]["n_real"] == 120
    assert "120 images, and all scores are against the images" in result.err
    refused(gantk(*command, "--metrics", ""), 2, "`--metrics` names no metrics")
    refused(gantk(*command, "--metrics", "fid"), 3, "weights-inception-2015-12-05-6726825d.pth")


def test_missing_weights_are_named_with_where_to_put_them(
    run: Path, gantk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    for variable in ("TORCH_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    result = gantk("eval", "--ckpt", "run42", "--metrics", "fid", "--samples", 20)
    refused(result, 3, "weights-inception-2015-12-05-6726825d.pth", "6726825d", os.environ["GANTK_WEIGHTS"])


# The command itself


def test_names_that_yaml_would_read_otherwise(gantk) -> None:  # type: ignore[no-untyped-def]
    for name in ("42", "no", "1e3", "null"):
        result = gantk("train", "--config", TINY, *SHORT, "train.kimg=0.032", "--name", name)
        assert result.code == 0, result.err
        assert (Path(os.environ["GANTK_RUNS"]) / name / "metrics.jsonl").is_file()
    refused(gantk("train", "--config", TINY, "--name", ""), 2, "`name`: must be letters (a to z), digits")
    refused(gantk("train", "--config", TINY, "--name", "../up"), 2, "`name`: must be letters (a to z), digits")


def test_config_is_printed_whole_and_loads(tmp_path: Path, gantk) -> None:  # type: ignore[no-untyped-def]
    result = gantk("config", "--config", TINY, "train.batch_size=64")
    assert (result.code, result.err) == (0, "")
    assert yaml.safe_load(result.out)["train"]["batch_size"] == 64
    (tmp_path / "c.yaml").write_text(result.out)
    assert gantk("config", "--config", tmp_path / "c.yaml").out == result.out


@pytest.mark.parametrize(
    "arguments", [("trian",), ("train",), ("train", "--no-such-option"), ("sample", "--ckpt", "x")]
)
def test_usage_errors(arguments: tuple[str, ...], gantk) -> None:  # type: ignore[no-untyped-def]
    result = gantk(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert "Traceback" not in result.err
    assert result.err


def test_version_and_help(gantk) -> None:  # type: ignore[no-untyped-def]
    from gantk import __version__

    assert gantk("--version").out == f"gantk {__version__}\n"
    assert "gantk train quickstart" in gantk("--help").out
    for command in ("train", "prepare", "eval", "sample", "config", "doctor", "export", "list"):
        result = gantk(command, "--help")
        assert result.code == 0
        assert command == "list" or f"gantk {command}" in result.out


def test_interrupt_outside_of_training(gantk, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def interrupted(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gantk.api.train", interrupted)
    result = gantk("train", "--config", TINY)
    assert result.code == 130
    assert "Traceback" not in result.err


def test_sigterm_saves_and_the_same_command_goes_on() -> None:
    """The real command, stopped by its scheduler."""
    command = [
        sys.executable, "-m", "gantk", "train", "--config", TINY, "--name", "stopped", "train.kimg=1000", *SHORT[1:],
        "train.log_every_kimg=0.032",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = Path(os.environ["GANTK_RUNS"]) / "stopped"
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (run / "checkpoints").is_dir() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert out == ""
    assert "Traceback" not in err
    assert "gantk: asked to stop at" in err
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("preempted", 75)
    from gantk.training.checkpoint import Checkpoint, checkpoints_in

    newest = Checkpoint(checkpoints_in(run / "checkpoints")[-1])
    assert newest.step == status["step"]
