"""`--data`: a recipe for a folder of images, by how many there are, how large they are, and what classes they have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import said
from gantk_eval.errors import DataError
from PIL import Image

from gantk.config import load_config
from gantk.recipes.choosing import choose
from gantk.recipes.folder import Facts, look_at, name_of, plan


def facts(**changes: Any) -> Facts:
    common: dict[str, Any] = {
        "where": "folder x",
        "count": 5000,
        "side": 28,
        "uniform": True,
        "grey": True,
        "classes": (),
    }
    return Facts(**{**common, **changes})


def planned(**changes: Any) -> dict[str, str]:
    chosen = plan(facts(**changes), "x")
    pairs = [override.split("=", 1) for override in chosen.overrides]
    return {"recipe": chosen.recipe, **dict(pairs)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "resolution", "recipe"),
    [
        ({"side": 28}, "28", "quickstart"),
        ({"side": 32}, "32", "quickstart"),
        ({"side": 8}, "8", "quickstart"),
        ({"side": 33}, "32", "quickstart"),
        ({"side": 64}, "64", "dcgan_folder"),
        ({"side": 48}, "48", "dcgan_folder"),
        ({"side": 48, "uniform": False}, "32", "quickstart"),
        ({"side": 500, "uniform": False}, "64", "dcgan_folder"),
        ({"side": 128}, "64", "dcgan_folder"),
        ({"side": 3}, "16", "quickstart"),
    ],
)
def test_the_resolution_is_the_largest_that_the_images_fill(
    given: dict[str, Any], resolution: str, recipe: str
) -> None:
    found = planned(**given)
    assert (found["data.resolution"], found["recipe"]) == (resolution, recipe)


@pytest.mark.parametrize(
    ("classes", "kind", "word"),
    [
        ((), "dcgan", "there are no classes"),
        ((5000,), "dcgan", "there are no classes"),
        ((2500, 2500), "conditional_dcgan", "2 classes, the smallest of 2,500 images"),
        ((100, 4900), "conditional_dcgan", "the smallest of 100 images"),
        ((99, 4901), "dcgan", "the smallest of the 2 classes has 99 images, and 100 are wanted"),
        ((100,) * 201, "dcgan", "201 classes are more than 200"),
    ],
)
def test_the_generator_takes_a_class_where_each_has_enough(classes: tuple[int, ...], kind: str, word: str) -> None:
    chosen = plan(facts(classes=classes, count=sum(classes) or 5000), "x")
    assert f"network.type={kind}" in chosen.overrides
    assert any(word in reason for reason in chosen.reasons)


@pytest.mark.parametrize(
    ("count", "batch", "kimg", "augment", "held_out"),
    [
        (12, "4", "200", "[translation]", "0.3"),
        (100, "32", "200", "[translation]", "0.3"),
        (5000, "64", "200", "[translation]", "0.3"),
        (15000, "64", "680", "[translation]", "0.1"),
        (100_000, "64", "4500", "[]", "0.1"),
        (10_000_000, "64", "5000", "[]", "0.1"),
    ],
)
def test_sizes_follow_the_number_of_images(count: int, batch: str, kimg: str, augment: str, held_out: str) -> None:
    found = planned(count=count)
    keys = ("train.batch_size", "train.kimg", "objective.augment", "data.heldout_fraction")
    assert tuple(found[key] for key in keys) == (batch, kimg, augment, held_out)


def test_colour_is_augmented_in_colour() -> None:
    assert planned(grey=False)["objective.augment"] == "[color, translation, cutout]"


def test_too_few_images() -> None:
    with pytest.raises(DataError, match=r"holds 9 images: .*eight are the least"):
        plan(facts(count=9), "x")


def test_a_name_for_a_folder() -> None:
    assert name_of("/a/My Cats (2)") == "My-Cats-2"
    assert name_of("cats.v2/") == "cats.v2"
    assert name_of("/a/faces.parquet") == "faces"
    assert name_of("/") == "images"


def pictures(
    folder: Path, classes: int = 2, each: int = 110, size: tuple[int, int] = (16, 16), mode: str = "L"
) -> Path:
    generator = np.random.default_rng(0)
    for number in range(classes * each):
        path = folder / f"class{number % classes}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (*size, 3) if mode == "RGB" else size
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return folder


def test_what_is_in_a_folder(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a", classes=3, each=5, size=(20, 30), mode="RGB")
    (folder / "class0" / "0.png").write_bytes(b"no image")
    found = look_at(str(folder), {})
    assert (found.count, found.side, found.uniform, found.grey) == (15, 20, False, False)
    assert sorted(found.classes) == [5, 5, 5]
    assert look_at(str(folder), {"use_labels": False}).classes == ()
    with pytest.raises(DataError, match="nowhere"):
        look_at(str(tmp_path / "nowhere"), {})


def test_arrays_are_images_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((12, 9, 9, 3), np.uint8), labels=np.arange(12) % 2)
    found = look_at(str(tmp_path / "a.npz"), {})
    assert (found.count, found.side, found.uniform, found.grey, found.classes) == (12, 9, True, False, (6, 6))


def test_train_on_a_folder_and_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path / "my cats")
    monkeypatch.chdir(tmp_path)
    small = (
        "train.kimg=0.128",
        "evaluate.every_kimg=99",
        "network.width=4",
        "network.latent_dim=4",
        "tracking.wandb=disabled",
    )
    code, out, err = said(capfd, "train", "--data", "my cats", *small)
    assert (code, out) == (0, ""), err
    for words in (
        "220 images, grey, all 16×16", "recipe quickstart", "at 16×16", "class-conditional generator: 2 classes",
        "batch size 64, 200 kimg", "DiffAugment (translation)", "data.flip=true", "named after its overrides",
    ):  # fmt: skip
        assert words in err
    (run,) = Path(os.environ["GANTK_RUNS"]).iterdir()
    assert run.name == "my-cats-latent_dim-4-width-4"
    config = load_config(run / "config.yaml")
    assert config.data.path == str(tmp_path / "my cats")
    assert config.network.type == "conditional_dcgan"  # type: ignore[attr-defined]
    code, _, err = said(capfd, "train", "--data", "my cats", *small)
    assert code == 0, err
    assert "step-00000002" in err
    assert [run] == list(Path(os.environ["GANTK_RUNS"]).iterdir())


def test_a_recipe_may_be_named_for_ones_own_images(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "cats", each=6)
    choice = choose(None, ["dcgan_lsun", "optimizer.lr=1e-3"], data=str(folder))
    assert (choice.config.data.source, choice.config.data.path) == ("folder", str(folder))
    assert (choice.config.data.resolution, choice.config.data.revision) == (64, None)
    assert choice.config.name == "dcgan_lsun-cats-lr-0.001"
    assert choose("dcgan_lsun", [], data=str(folder)).config.name == "dcgan_lsun"


def test_the_other_commands_take_a_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path / "cats")
    monkeypatch.chdir(tmp_path)
    assert said(capfd, "config", "--data", "cats")[1].startswith("name: cats\n")
    assert "Run cats" in said(capfd, "doctor", "--data", "cats")[1]
    assert said(capfd, "init", "--data", "cats")[:2] == (0, "cats.yaml\n")
    assert load_config("cats.yaml") == choose(None, [], data="cats").config
    assert Path("cats.yaml").read_text().startswith("# folder ")
    code, out, err = said(capfd, "train", "--data", "dogs")
    assert (code, out) == (3, "")
    assert str(tmp_path / "dogs") in err


# What there is


def test_list_shows_runs_with_score_verdict_and_age(capfd: pytest.CaptureFixture[str]) -> None:
    small = ("train.kimg=0.064", "evaluate.every_kimg=0.064", "evaluate.metrics=[coverage]", "evaluate.samples=50")
    assert said(capfd, "train", "tiny", *small)[0] == 0
    assert said(capfd, "train", "tiny", "train.kimg=0.032", "evaluate.every_kimg=99", "--name", "other")[0] == 0
    lines = {line.split()[1]: line for line in said(capfd, "list")[1].splitlines() if line.startswith("run ")}
    assert set(lines) == {"tiny", "other"}
    state, kimg, score, verdict, age = lines["tiny"].split(maxsplit=2)[2].split(", ")
    assert (state, kimg, age) == ("completed", "0.064 kimg", "just now")
    assert score.startswith("coverage_classifier ")
    assert verdict in ("ok", "suspect", "collapsed", "inconclusive")
    assert lines["other"].split(maxsplit=2)[2] == "completed, 0.032 kimg, just now"


def test_ages() -> None:
    from datetime import datetime, timezone

    from gantk.recipes.runs_table import _age

    now = datetime(2026, 1, 10, tzinfo=timezone.utc).timestamp()
    for stamp, age in (
        ("2026-01-09T23:59:30+00:00", "just now"), ("2026-01-09T23:15:00+00:00", "45 min ago"),
        ("2026-01-09T20:59:00+00:00", "3 h ago"), ("2026-01-07T01:00:00+00:00", "2 d ago"), ("yesterday", ""), (None, ""),
    ):  # fmt: skip
        assert _age(stamp, now) == age


def test_list_imports_plugins_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from gantk.networks import NETWORKS

    (tmp_path / "nets_to_list.py").write_text(
        "from gantk.networks import NETWORKS\nfrom gantk.networks.dcgan import DCGAN\n"
        "@NETWORKS.register('listed_net')\nclass Own(DCGAN):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        code, out, _ = said(capfd, "list", "--plugins", "nets_to_list")
        assert (code, "network    listed_net" in out) == (0, True)
    finally:
        NETWORKS._classes.pop("listed_net", None)
    code, out, err = said(capfd, "list", "--plugins", "no_such_module_at_all")
    assert (code, out) == (2, "")
    assert "`--plugins no_such_module_at_all` cannot be imported" in err
