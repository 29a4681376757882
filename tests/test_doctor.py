"""`gantk doctor`: it says what would stop a run before the run does, and never fails for what is optional."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import gantk
from gantk.cli import app
from gantk.config import Config, parse_config
from gantk.doctor import examine
from gantk.doctor.environment import VARIABLES
from gantk.errors import UserError
from gantk.training.run_lock import RunLock


def make_config(**sections: Any) -> Config:
    """A small run, with sections laid over it."""
    values: dict[str, Any] = {
        "name": "small",
        "data": {"source": "digits", "resolution": 8},
        "network": {"type": "dcgan", "width": 4, "latent_dim": 4},
        "objective": {"type": "gan"},
        "train": {"kimg": 0.064, "batch_size": 16, "precision": "no", "device": "cpu", "threads": 1},
        "evaluate": {"every_kimg": 1000},
        "tracking": {"wandb": "disabled"},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return parse_config(values)


@pytest.fixture(autouse=True)
def _nobodys_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key and no accelerate config of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("gantk.runtime._default_launch_file", lambda: None)
    monkeypatch.delenv("TORCH_HOME", raising=False)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Forty grey pictures in two classes, a third of them in the second."""
    draw = np.random.default_rng(0)
    for index in range(40):
        folder = tmp_path / "pictures" / ("b" if index % 3 == 0 else "a")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (12, 10), dtype=np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "pictures"


def line_of(text: str, what: str, mark: str) -> str:
    """The one line with this mark and subject."""
    found = [line for line in text.splitlines() if line.split()[:1] == [mark] and line[11:].startswith(f"{what} ")]
    assert len(found) == 1, f"{len(found)} lines `{mark} {what}` in\n{text}"
    return found[0]


# Without a config


def test_a_machine_alone_is_never_at_fault(tmp_path: Path) -> None:
    found = examine(None)
    assert found.exit_code == 0
    python = line_of(found.text, "python", "ok")
    assert ".".join(map(str, __import__("sys").version_info[:3])) in python
    assert f"torch {importlib.metadata.version('torch')}" in found.text
    assert f"GiB free at {tmp_path / 'runs'}" in line_of(found.text, "disk for runs", "ok")
    assert "wandb login" in found.text
    assert line_of(found.text, "W&B key", "missing")


def test_it_leaves_no_trace(tmp_path: Path) -> None:
    examine(make_config())
    assert sorted(path.name for path in tmp_path.iterdir()) == []


def test_it_names_the_inception_file_its_hash_and_where_to_put_it(tmp_path: Path) -> None:
    text = examine(None).text
    assert "weights-inception-2015-12-05-6726825d.pth (sha256 begins with 6726825d)" in text
    assert f"curl -L -o {tmp_path / 'weights'}/weights-inception-2015-12-05-6726825d.pth https://" in text


def test_it_finds_weights_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.pth"
    own.write_bytes(b"weights")
    monkeypatch.setenv("GANTK_INCEPTION_WEIGHTS", str(own))
    assert str(own) in line_of(examine(None).text, "Inception weights", "ok")


def test_it_sees_a_damaged_weights_file(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "weights-inception-2015-12-05-6726825d.pth").write_bytes(b"half of it")
    assert "is not the published file" in line_of(examine(None).text, "Inception weights", "missing")


def test_it_knows_a_key_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    text = examine(None).text
    assert "there is an API key" in line_of(text, "W&B", "ok")
    assert "0123456789abcdef" not in text


def test_it_names_the_variables_that_are_set_and_no_secrets(
    monkeypatch: pytest.MonkeyPatch, project_root: Path
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert "none of the variables" in line_of(examine(None).text, "environment", "ok")
    monkeypatch.setenv("WANDB_DISABLED", "true")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy")
    text = examine(None).text
    assert "WANDB_DISABLED=true (true: as WANDB_MODE=disabled)" in text
    assert "HTTPS_PROXY=(set)" in text
    assert "secret" not in text
    table = (project_root / "docs" / "environment.md").read_text()
    assert all(f"| `{name}` | {effect} |\n" in table for name, effect in VARIABLES.items())


@pytest.mark.parametrize("name", ["GANTK_OFFLINE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_every_offline_switch_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gantk_eval.paths import offline

    for other in ("GANTK_OFFLINE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(other, raising=False)
    assert not offline()
    monkeypatch.setenv(name, "1")
    assert offline()


def test_it_tells_how_many_processes_a_launch_would_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert "without options 1 (there is no GPU)" in examine(None).text
    file = tmp_path / "default_config.yaml"
    file.write_text("distributed_type: MULTI_GPU\nnum_processes: 4\n")
    monkeypatch.setattr("gantk.runtime._default_launch_file", lambda: str(file))
    assert f"without options 4 (says {file})" in examine(None).text


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = [*(importlib.metadata.requires("gantk") or []), "not-a-package-of-anyone>=3.1", "numpy>=1000"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needed)
    assert examine(None).exit_code == 0
    found = examine(make_config())
    assert found.exit_code == 2
    assert "pip install 'not-a-package-of-anyone>=3.1' 'numpy>=1000'" in found.text


# With a config that can run


def test_a_config_that_can_run(pictures: Path) -> None:
    config = make_config(data={"source": "folder", "path": str(pictures)})
    found = examine(config)
    assert found.exit_code == 0
    assert "missing  " not in found.text.partition("Run small")[2]
    assert "a: 26, b: 14" in found.text
    assert "10×12: 40" in found.text
    assert "L: 40" in found.text
    assert "40 images, at 8×8×1" in line_of(found.text, "data", "ok")
    assert line_of(found.text, "training images", "ok").endswith("36, at 16 in a step")
    assert found.text.endswith("Run small can be trained here.")
    gantk.train(config)
    again = examine(config).text
    assert "decoded already" in line_of(again, "disk for images", "ok")
    assert "goes on from 0.064 kimg" in line_of(again, "run folder", "ok")


def test_the_parameters_are_those_of_the_trained_networks() -> None:
    config = make_config()
    text = examine(config).text
    trained = gantk.train(config).folder / "checkpoints" / "step-00000004" / "generator.safetensors"
    from safetensors.torch import load_file

    tensors = load_file(trained)
    count = sum(t.numel() for name, t in tensors.items() if "running_" not in name and "num_batches" not in name)
    assert f"{count:,} parameters" in line_of(text, "generator", "ok")


def test_classes_without_names_are_enough_for_a_conditional_network(tmp_path: Path) -> None:
    """An npz has numbers for classes. The doctor says that it can run, and it does."""
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(60) % 3)
    data = {"source": "npz", "path": str(tmp_path / "data.npz")}
    config = make_config(data=data, network={"type": "conditional_dcgan", "hidden_dim": 4})
    assert examine(config).exit_code == 0
    assert gantk.train(config).kimg == pytest.approx(0.064)


def test_what_the_launch_must_be_for_the_world_that_the_config_wants() -> None:
    found = examine(make_config(train={"world_size": 3}))
    assert found.exit_code == 0
    assert "ACCELERATE_USE_CPU=true torchrun --nproc_per_node 3" in found.text
    assert "train.batch_size=18" in found.text


# With a config that cannot


def broken_pictures(pictures: Path, names: str = "1") -> dict[str, Any]:
    for name in names:
        (pictures / "a" / f"{name}.png").write_bytes((pictures / "a" / f"{name}.png").read_bytes()[:60])
    return {"data": {"source": "folder", "path": str(pictures)}}


def unlabelled(pictures: Path) -> dict[str, Any]:
    for index, path in enumerate(sorted(pictures.rglob("*.png"))):
        path.rename(pictures / f"{index}.png")
    for folder in "ab":
        (pictures / folder).rmdir()
    return {"data": {"source": "folder", "path": str(pictures)}, "network": {"type": "conditional_dcgan"}}


def other_heldout(pictures: Path) -> dict[str, Any]:
    shutil.copytree(pictures, pictures.parent / "heldout")
    (pictures.parent / "heldout" / "b").rename(pictures.parent / "heldout" / "unheard_of")
    return {"data": {"source": "folder", "path": str(pictures), "heldout_path": str(pictures.parent / "heldout")}}


HELD: list[RunLock] = []


def being_trained(pictures: Path) -> dict[str, Any]:
    lock = RunLock(make_config().run_folder)
    assert lock.acquire() is None
    HELD.append(lock)
    return {}


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    yield
    while HELD:
        HELD.pop().release()


CASES: dict[str, tuple[Any, int, str]] = {
    "damaged image": (broken_pictures, 3, "1.png"),
    "no such folder": (lambda p: {"data": {"source": "folder", "path": str(p / "none")}}, 3, "does not exist"),
    "fewer images than a batch": (
        lambda p: {"data": {"source": "folder", "path": str(p)}, "train": {"batch_size": 64}},
        3,
        "36 training images are fewer than train.batch_size=64",
    ),
    "no labels": (unlabelled, 2, "the data has no labels"),
    "held-out classes": (other_heldout, 3, "unheard_of"),
    "hub offline": (lambda p: {"data": {"source": "hub", "path": "owner/name"}}, 3, "gantk prepare"),
    "too many damaged": (
        lambda p: {"data": {**broken_pictures(p, "12")["data"], "on_bad_image": "skip"}},
        3,
        "more than 1 of the 40",
    ),
    "in use": (being_trained, 2, "is being trained"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_would_stop_the_run_stops_it(case: str, pictures: Path) -> None:
    """The doctor's exit code is the one that training ends with, and the sentence names the thing."""
    change, code, says = CASES[case]
    config = make_config(**change(pictures))
    found = examine(config)
    assert found.exit_code == code, found.text
    assert says in found.text
    assert f"would stop with exit code {code}" in found.text
    with pytest.raises(UserError) as error:
        gantk.train(config)
    assert error.value.exit_code == code


def test_damage_that_the_config_leaves_out_is_a_warning(pictures: Path) -> None:
    config = make_config(data={**broken_pictures(pictures)["data"], "on_bad_image": "skip"})
    found = examine(config)
    assert found.exit_code == 0, found.text
    assert "1 are left out" in line_of(found.text, "damaged images", "warning")
    gantk.train(config)


def test_half_precision_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the config alone it may be meant for a GPU; by this machine it is not."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    found = examine(make_config(train={"precision": "fp16", "device": "auto"}))
    assert found.exit_code == 2
    assert "needs a CUDA GPU" in line_of(found.text, "precision", "missing")


def test_the_first_obstacle_gives_the_exit_code(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    found = examine(make_config(**broken_pictures(pictures), train={"precision": "fp16", "device": "auto"}))
    assert found.exit_code == 2
    assert "1.png" in found.text, "and the others are named as well"


@pytest.mark.parametrize(
    ("storage", "code", "mark"), [("auto", 0, "warning"), ("memory", 3, "missing"), ("stream", 0, "ok")]
)
def test_a_disk_too_small_for_the_images(monkeypatch: pytest.MonkeyPatch, storage: str, code: int, mark: str) -> None:
    usage = shutil.disk_usage("/")._replace(free=1 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    found = examine(make_config(data={"storage": storage}))
    assert found.exit_code == code
    line_of(found.text, "disk for images", mark)


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert examine(None).exit_code == 0
    found = examine(make_config())
    assert found.exit_code == 2
    assert "set $GANTK_RUNS" in line_of(found.text, "disk for runs", "missing")


def test_metrics_that_want_weights_are_warned_of() -> None:
    found = examine(make_config(evaluate={"metrics": ["fid"]}))
    assert found.exit_code == 0
    assert "names fid" in line_of(found.text, "evaluate.metrics", "warning")


def test_tensorboard_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = examine(make_config(tracking={"tensorboard": True}))
    assert found.exit_code == 2
    assert "pip install tensorboard" in found.text


# The hub


def test_data_on_the_hub_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("gantk.data.sources.hub.Hub.commit_on_hub", lambda self: "0123456789abcdef" * 2)
    monkeypatch.setattr("datasets.load_dataset", _only_from_disk)
    found = examine(make_config(data={"source": "hub", "path": "owner/name"}))
    assert found.exit_code == 0
    assert "owner/name at 0123456789ab is on the hub" in line_of(found.text, "data", "warning")
    assert "GANTK_OFFLINE" not in os.environ


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: time.sleep(30))
    monkeypatch.setattr("gantk.data.sources.hub.PROBE_SECONDS", 0.2)
    monkeypatch.setattr("datasets.load_dataset", _only_from_disk)
    begun = time.monotonic()
    found = examine(make_config(data={"source": "hub", "path": "owner/name"}))
    assert found.exit_code == 3
    assert "the hub cannot be reached" in found.text
    assert time.monotonic() - begun < 10


def _only_from_disk(*_: Any, **__: Any) -> Any:
    import datasets

    assert datasets.config.HF_HUB_OFFLINE, "the doctor must not download"
    raise ConnectionError("not on this disk")


# The command


def test_the_command(pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "name: small\ndata: {source: digits, resolution: 8}\nnetwork: {type: dcgan, width: 4}\nobjective: {type: gan}\n"
        "train: {kimg: 1, batch_size: 16, device: cpu}\n"
    )
    done = CliRunner().invoke(app, ["doctor", "--config", str(file)])
    assert done.exit_code == 0
    assert done.stdout.rstrip().endswith("Run small can be trained here.")
    done = CliRunner().invoke(app, ["doctor", "--config", str(file), "train.batch_size=2000"])
    assert done.exit_code == 3
    assert "fewer than train.batch_size=2000" in done.stdout
