"""Samples by index, written in every form, from every thing that `--ckpt` takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gantk_eval import ArrayImages, evaluate, open_images
from gantk_eval.labels import align_labels, with_distinct_classes
from gantk_eval.path_length import PathGenerator
from PIL import Image

from gantk.config import load_config
from gantk.errors import CheckpointError, UserError
from gantk.grids import to_uint8
from gantk.runs import find_checkpoint, list_runs, newest_whole
from gantk.sampling import ImageShape, Sampler, class_number, export_generator, load_sampler, write_samples
from gantk.scoring import generated_images
from gantk.training.checkpoint import Checkpoint, write_best
from gantk.training.trainer import Trainer


def load(folder: Path, seed: int | None = None) -> Sampler:
    """With weights of contrast: after so few steps one sample of the run's own looks like another."""
    sampler, _ = load_sampler(Checkpoint(folder), seed=seed)
    generator = torch.Generator().manual_seed(0)
    for module in sampler.networks["generator"].modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.reset_running_stats()
        elif isinstance(module, (torch.nn.Linear, torch.nn.ConvTranspose2d)):
            torch.nn.init.normal_(module.weight, 0.0, 0.2, generator=generator)
    return sampler


@pytest.fixture
def sampler(trained: Path) -> Sampler:
    return load(trained / "checkpoints" / "step-00000008")


@pytest.fixture
def plain(tiny: Path) -> Sampler:
    """Of an unconditional model."""
    return untrained(tiny)


def untrained(tiny: Path, *overrides: str) -> Sampler:
    from gantk.sampling import build_objective

    objective = build_objective(load_config(tiny, overrides), ImageShape(1, 8, None, None))
    return Sampler(
        objective, {"generator": objective.networks["generator"]}, ImageShape(1, 8, None, None), 0, torch.device("cpu")
    )


# Sample i is sample i


def test_sample_is_the_same_whatever_the_chunk(sampler: Sampler) -> None:
    whole = sampler.images(np.arange(40))
    assert whole.shape == (40, 8, 8, 1)
    assert whole.dtype == np.uint8
    for chunk in (1, 7, 16):
        parts = np.concatenate([sampler.images(np.arange(40)[at : at + chunk]) for at in range(0, 40, chunk)])
        # A convolution may sum in another order for another batch: a grey level at most.
        assert np.abs(parts.astype(int) - whole).max() <= 1
    order = np.random.default_rng(0).permutation(40)
    assert np.abs(sampler.images(order).astype(int) - whole[order]).max() <= 1


def test_samples_differ_between_indices_and_seeds(trained: Path, sampler: Sampler) -> None:
    images = sampler.images(np.arange(20), np.zeros(20, dtype=np.int64))
    apart = np.abs(images[:, None].astype(int) - images[None]).max(axis=(2, 3, 4)) + 255 * np.eye(20)
    assert apart.min() > 10
    other = load(trained / "checkpoints" / "step-00000008", seed=1)
    assert (
        np.abs(other.images(np.arange(20), np.zeros(20, dtype=np.int64)).astype(int) - images).max(axis=(1, 2, 3)).min()
        > 10
    )
    assert not torch.isclose(other.latent(np.arange(5)), sampler.latent(np.arange(5))).any()


def test_loaded_sampler_draws_what_the_trainer_drew(tiny: Path) -> None:

    trainer = Trainer(load_config(tiny, ["train.kimg=0.128", "evaluate.every_kimg=99"]))
    trainer.train()
    loaded, _ = load_sampler(find_checkpoint("tiny").checkpoint)
    assert np.array_equal(loaded.images(np.arange(16)), trainer.sampler.images(np.arange(16)))
    # The average, not the weights themselves, which have gone further by now.
    assert any(
        not torch.equal(a, b)
        for a, b in zip(
            loaded.networks["generator"].parameters(), trainer.runner.bare["generator"].parameters(), strict=True
        )
    )


def test_sampling_leaves_the_networks_modes_alone(sampler: Sampler) -> None:
    sampler.networks["discriminator"].train()
    sampler.images(np.arange(2))
    assert sampler.networks["discriminator"].training
    assert not sampler.networks["generator"].training


def test_truncation_is_of_normal_latents(tiny: Path, plain: Sampler, tmp_path: Path) -> None:
    sampler = untrained(tiny, "network.latent=normal")
    assert torch.allclose(sampler.latent(np.arange(10), 0.5), sampler.latent(np.arange(10)) / 2)
    centre = sampler.raw(np.arange(10), truncation=0.0)
    assert (centre == centre[0]).all()
    assert not (sampler.raw(np.arange(10)) == centre).all()
    with pytest.raises(UserError, match=r"does not go with `network\.latent: uniform`"):
        write_samples(plain, tmp_path / "out", 3, labels=None, truncation=0.7, chunk=5)
    assert not list(tmp_path.glob("*out*"))


# Labels


def test_labels_follow_the_shares(sampler: Sampler) -> None:
    shares = np.array(sampler.shape.class_shares)
    assert shares.sum() == pytest.approx(1)
    sampler.shape = ImageShape(1, 8, sampler.shape.class_names, (0.5, 0.3, 0.2, *[0.0] * 7))
    labels = sampler.labels(np.arange(20_000))
    assert labels is not None
    assert labels.dtype == np.int64
    seen = np.bincount(labels, minlength=10) / 20_000
    assert np.abs(seen[:3] - [0.5, 0.3, 0.2]).max() < 0.015
    assert seen[3:].sum() == 0
    assert np.array_equal(sampler.labels(np.arange(50, 60)), labels[50:60])


def test_labels_reach_the_image(sampler: Sampler) -> None:
    zeros = sampler.images(np.arange(10), np.zeros(10, dtype=np.int64))
    ones = sampler.images(np.arange(10), np.ones(10, dtype=np.int64))
    assert not (zeros == ones).all(axis=(1, 2, 3)).any()


def test_unconditional_models_have_no_labels(plain: Sampler) -> None:
    assert plain.labels(np.arange(5)) is None
    with pytest.raises(UserError, match="`--label` goes with a conditional model"):
        class_number(plain, "3")


def test_class_by_name_or_number(sampler: Sampler) -> None:
    assert class_number(sampler, "7") == 7
    sampler.shape = ImageShape(1, 8, ("cat", "1", "dog"), None)
    assert [class_number(sampler, name) for name in ("dog", "1", "0")] == [2, 1, 0]
    with pytest.raises(UserError, match="there is no class `3`; there are: cat, 1, dog"):
        class_number(sampler, "3")


def test_a_class_without_images_is_never_drawn(sampler: Sampler) -> None:
    """Numbers that are names are no places, and what has no training images is in no grid and for no `--label`."""
    names = ("0", "3", "17", "900", *(f"{digit}" for digit in range(4, 10)))
    sampler.shape = ImageShape(1, 8, names, (0.0, 0.25, 0.5, 0.25, *[0.0] * 6))
    labels = sampler.labels(np.arange(5_000))
    assert labels is not None
    assert np.unique(labels).tolist() == [1, 2, 3]
    assert [class_number(sampler, label) for label in ("3", "17", "900")] == [1, 2, 3]
    with pytest.raises(UserError, match=r"class `0` has no training images.*there are: 3, 17, 900"):
        class_number(sampler, "0")
    with pytest.raises(UserError, match="there is no class `2`; there are: 3, 17, 900"):
        class_number(sampler, "2")
    images, _, captions = sampler.grid(100)
    assert captions == ("3", "17", "900")
    assert len(images) == 30


def test_drawn_arrays_say_which_classes_they_are_of(sampler: Sampler, tmp_path: Path) -> None:
    sampler.shape = ImageShape(1, 8, ("0", "3", "17", "900"), (0.25,) * 4)
    write_samples(sampler, tmp_path / "a.npz", 40, labels=None, truncation=1.0, chunk=20)
    drawn = open_images(tmp_path / "a.npz")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    real = ArrayImages(pixels, np.array([900, 3, 17, 0] * 10))
    aligned = align_labels(drawn, with_distinct_classes(real))
    assert aligned is not None
    assert aligned.tolist() == sampler.labels(np.arange(40)).tolist()  # type: ignore[union-attr]
    assert generated_images(sampler, 40, "x").class_names == ("0", "3", "17", "900")


def test_grid_shows_ten_of_each_class(sampler: Sampler, plain: Sampler) -> None:
    images, columns, captions = sampler.grid(20)
    assert (len(images), columns, captions) == (100, 10, tuple(str(digit) for digit in range(10)))
    assert np.abs(images[10:20].astype(int) - sampler.images(np.arange(10, 20), np.ones(10, dtype=np.int64))).max() <= 1
    images, columns, captions = plain.grid(20)
    assert (len(images), columns, captions) == (20, None, None)


# Written


def test_folder_of_pngs(sampler: Sampler, tmp_path: Path) -> None:
    out = tmp_path / "new" / "samples"
    write_samples(sampler, out, 12, labels=None, truncation=1.0, chunk=5)
    assert sorted(path.name for path in out.iterdir()) == [f"{number:06d}.png" for number in range(12)]
    wanted = sampler.images(np.arange(12))
    for number in range(12):
        pixels = np.asarray(Image.open(out / f"{number:06d}.png"))
        assert pixels.shape == (8, 8)
        assert np.abs(pixels.astype(int) - wanted[number, :, :, 0]).max() <= 1


def test_npz_with_labels(sampler: Sampler, tmp_path: Path) -> None:
    write_samples(sampler, tmp_path / "out.npz", 12, labels=None, truncation=1.0, chunk=5)
    content = np.load(tmp_path / "out.npz")
    assert set(content) == {"images", "labels", "class_names"}
    assert content["images"].shape == (12, 8, 8, 1)
    assert np.array_equal(content["labels"], sampler.labels(np.arange(12)))
    write_samples(sampler, tmp_path / "threes.npz", 12, labels=np.full(12, 3), truncation=1.0, chunk=5)
    threes = np.load(tmp_path / "threes.npz")
    assert (threes["labels"] == 3).all()
    same = content["labels"] == 3
    assert np.abs(threes["images"].astype(int) - content["images"])[same].max(initial=0) <= 1
    assert not np.array_equal(threes["images"][~same], content["images"][~same])


def test_npz_without_labels(plain: Sampler, tmp_path: Path) -> None:
    write_samples(plain, tmp_path / "out.npz", 3, labels=None, truncation=1.0, chunk=5)
    assert set(np.load(tmp_path / "out.npz")) == {"images"}


def test_more_samples_begin_with_the_same(sampler: Sampler, tmp_path: Path) -> None:
    write_samples(sampler, tmp_path / "few.npz", 7, labels=None, truncation=1.0, chunk=5)
    write_samples(sampler, tmp_path / "many.npz", 23, labels=None, truncation=1.0, chunk=5)
    few, many = np.load(tmp_path / "few.npz")["images"], np.load(tmp_path / "many.npz")["images"]
    assert np.abs(few.astype(int) - many[:7]).max() <= 1
    write_samples(sampler, tmp_path / "late.npz", 6, labels=None, truncation=1.0, chunk=5, start=10)
    assert np.abs(np.load(tmp_path / "late.npz")["images"].astype(int) - many[10:16]).max() <= 1


def test_png_grid(sampler: Sampler, tmp_path: Path) -> None:
    write_samples(sampler, tmp_path / "grid.png", 9, labels=None, truncation=1.0, chunk=5)
    assert min(Image.open(tmp_path / "grid.png").size) > 3 * 8


@pytest.mark.parametrize("name", ["out.jpg", "out.npy"])
def test_other_kinds_of_file_are_refused(name: str, sampler: Sampler, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"give a folder, a file that ends in \.png"):
        write_samples(sampler, tmp_path / name, 3, labels=None, truncation=1.0, chunk=5)


def test_folder_that_holds_files_is_refused(sampler: Sampler, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files already"):
        write_samples(sampler, tmp_path / "full", 3, labels=None, truncation=1.0, chunk=5)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file: give a folder"):
        write_samples(sampler, tmp_path / "file", 3, labels=None, truncation=1.0, chunk=5)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match="give a folder, a file"):
        write_samples(sampler, tmp_path / "folder.png", 3, labels=None, truncation=1.0, chunk=5)


# What --ckpt takes


def test_a_run_by_name_folder_and_checkpoint(trained_copy: Path) -> None:
    checkpoints = trained_copy / "checkpoints"
    for spec, step in {
        "trained": 8,
        "trained@step-00000004": 4,
        str(trained_copy): 8,
        f"{trained_copy}@step-00000004": 4,
        str(checkpoints / "step-00000004"): 4,
    }.items():
        found = find_checkpoint(spec)
        assert found.checkpoint.step == step, spec
        assert found.run == trained_copy
        assert found.sentence == f"checkpoint {checkpoints / f'step-0000000{step}'} ({0.032 * step:g} kimg)"


def test_best_is_the_one_that_is_marked(trained_copy: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no best checkpoint.*take `trained`"):
        find_checkpoint("trained@best")
    write_best(trained_copy / "checkpoints", "step-00000004", "fd", 1.0)
    assert find_checkpoint("trained@best").checkpoint.step == 4
    write_best(trained_copy / "checkpoints", "step-00000005", "fd", 1.0)
    with pytest.raises(CheckpointError):
        find_checkpoint("trained@best")


def test_path_with_an_at_sign(trained: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "me@home" / "run"
    shutil.copytree(trained, run)
    assert find_checkpoint(str(run)).checkpoint.step == 8
    assert find_checkpoint(f"{run}@step-00000004").checkpoint.step == 4


def test_what_is_not_there(trained_copy: Path) -> None:
    with pytest.raises(
        CheckpointError, match="there is no run or checkpoint `nowhere`; the runs there are: trained"
    ) as caught:
        find_checkpoint("nowhere")
    assert caught.value.exit_code == 4
    with pytest.raises(
        CheckpointError, match="has no checkpoint `step-00000005`; there are: step-00000004, step-00000008"
    ):
        find_checkpoint("trained@step-00000005")


def test_no_runs_at_all() -> None:
    with pytest.raises(
        CheckpointError, match=r"there is no run or checkpoint `run42`; there are no runs in .*runs/ yet"
    ):
        find_checkpoint("run42")
    assert list_runs() == []


def test_run_without_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "runs" / "fresh" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "fresh" / "config.yaml").write_text("name: fresh")
    assert list_runs() == ["fresh"]
    with pytest.raises(CheckpointError, match="has no checkpoint yet: train it first"):
        find_checkpoint("fresh")


def test_damaged_newest_is_named_to_the_caller(trained_copy: Path) -> None:
    newest = trained_copy / "checkpoints" / "step-00000008"
    (newest / "generator.safetensors").write_bytes(b"x")
    found, problems = newest_whole(trained_copy)
    assert found is not None
    assert found.step == 4
    assert len(problems) == 1
    assert "step-00000008/generator.safetensors is damaged" in problems[0]
    assert find_checkpoint("trained").checkpoint.step == 4
    (trained_copy / "checkpoints" / "step-00000004" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"step-00000008/generator.safetensors is damaged"):
        find_checkpoint("trained")


def test_exported_generator_draws_the_same(trained: Path, sampler: Sampler, tmp_path: Path) -> None:
    checkpoint = Checkpoint(trained / "checkpoints" / "step-00000008")
    out = tmp_path / "exported"
    export_generator(checkpoint, out)
    assert {path.name for path in out.iterdir()} == {
        "manifest.json", "config.yaml", "state.json", "generator.ema.safetensors", "objective.safetensors",
    }  # fmt: skip
    found = find_checkpoint(str(out))
    assert found.run is None
    assert found.sentence == f"exported generator {out} (0.256 kimg)"
    again = load(out)
    assert np.array_equal(again.images(np.arange(12)), sampler.images(np.arange(12)))
    assert np.array_equal(again.labels(np.arange(12)), sampler.labels(np.arange(12)))
    with pytest.raises(UserError, match="is there already: give a new folder"):
        export_generator(checkpoint, out)
    # It is for samples alone.
    with pytest.raises(CheckpointError, match=r"has no generator\.safetensors"):
        found.checkpoint.tensors("generator")


def test_shape_goes_through_json() -> None:
    import json

    for shape in (ImageShape(3, 32, None, None), ImageShape(1, 8, ("a", "b"), (0.1, 0.9))):
        assert ImageShape.from_json(json.loads(json.dumps(shape.to_json()))) == shape


def test_decoded_latents_are_the_samples_before_rounding(sampler: Sampler) -> None:
    index = np.arange(3, 9)
    labels = sampler.labels(index)
    images = sampler.decode(sampler.latent(index), labels)
    assert images.dtype == torch.float32
    assert not images.requires_grad
    assert np.array_equal(to_uint8(images), sampler.images(index))


def test_a_sampler_has_what_a_path_length_needs(plain: Sampler) -> None:
    assert isinstance(plain, PathGenerator)
    assert plain.latent_path == "linear", "the latent of tiny is uniform"
    images = generated_images(plain, 120, "tiny")
    size = plain.shape.resolution
    real = ArrayImages(
        np.random.default_rng(0).integers(0, 256, (150, size, size, plain.shape.channels), dtype=np.uint8)
    )
    entry = evaluate(images, real, metrics=["ppl"], collapse=False).metrics["ppl_pixel_pca"]
    assert entry["n_fake"] == 120
    assert entry["value"] > 0
