"""Networks of which no average is kept: loaded, sampled, scored and exported with those that are averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gantk_eval.images import ImageSet

from gantk.config import load_config
from gantk.errors import CheckpointError, UserError
from gantk.runs import find_checkpoint
from gantk.sampling import export_generator, load_sampler
from gantk.training.checkpoint import Checkpoint, write
from gantk.training.trainer import Trainer

TWO = ("plugins=[games]", "objective.type=test_two_networks", "train.kimg=0.128", "evaluate.every_kimg=99")


def trained_two(tiny: Path, *overrides: str) -> Trainer:
    trainer = Trainer(load_config(tiny, [*TWO, *overrides]))
    trainer.train()
    return trainer


@pytest.mark.parametrize("precision", ["no", "float64"])
def test_a_network_that_is_not_averaged_is_loaded(tiny: Path, tmp_path: Path, precision: str) -> None:
    """From a checkpoint and from an export of it: bit for bit what the training's own sampler draws."""
    trainer = trained_two(tiny, f"train.precision={precision!r}")
    index = np.arange(12)
    wanted = trainer.sampler.raw(index)
    checkpoint = find_checkpoint("tiny").checkpoint
    export_generator(checkpoint, tmp_path / "exported")
    assert {path.stem for path in (tmp_path / "exported").glob("*.safetensors")} == {
        "generator.ema", "second", "objective",
    }  # fmt: skip
    for folder in (checkpoint.folder, tmp_path / "exported"):
        loaded, _ = load_sampler(Checkpoint(folder))
        assert torch.equal(loaded.raw(index), wanted)
        assert not loaded.networks["second"].training
    assert loaded.networks_used() == {"generator", "second"}
    with pytest.raises(
        CheckpointError, match=r"exported has no network `discriminator` .*take a checkpoint of the run"
    ):
        loaded.networks["discriminator"]
    # The comparison can fail: with the second network as it was made, samples are others.
    with torch.no_grad():
        for parameter in loaded.networks["second"].parameters():
            parameter.add_(0.1)
    assert not torch.equal(loaded.raw(index), wanted)


def test_an_export_has_networks_that_generate_takes_from_the_objective(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `self.networks`, and not from what it is given."""
    import games

    def generate(self: Any, networks: Any, z: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        images: torch.Tensor = networks["generator"](z, labels) + self.networks["second"](z, labels)
        return images

    monkeypatch.setattr(games.TwoNetworks, "generate", generate)
    trained_two(tiny)
    export_generator(find_checkpoint("tiny").checkpoint, tmp_path / "exported")
    wanted = load_sampler(find_checkpoint("tiny").checkpoint)[0].raw(np.arange(4))
    assert torch.equal(load_sampler(Checkpoint(tmp_path / "exported"))[0].raw(np.arange(4)), wanted)


def test_an_export_that_lacks_a_network_is_refused(tiny: Path, tmp_path: Path) -> None:
    """As older versions wrote it."""
    trained_two(tiny)
    checkpoint = find_checkpoint("tiny").checkpoint
    state = {"shape": checkpoint.state["shape"], "step": 4, "images": 128}
    tensors = {"generator.ema": checkpoint.tensors("generator.ema")}
    write(tmp_path / "old", tensors=tensors, state=state, config=checkpoint.config_file.read_text())
    with pytest.raises(CheckpointError, match=r"old has no network `second` \(second\.safetensors\)"):
        load_sampler(Checkpoint(tmp_path / "old"))


def test_commands_sample_and_score_both_networks(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gantk.cli import main

    trainer = trained_two(tiny)
    wanted = trainer.sampler.images(np.arange(9))
    with pytest.raises(SystemExit) as ended:
        main(["sample", "--ckpt", "tiny", "--count", "9", "--out", str(tmp_path / "out.npz")])
    assert ended.value.code == 0
    assert np.array_equal(np.load(tmp_path / "out.npz")["images"], wanted)
    scored: list[np.ndarray] = []

    class Keeps:
        def evaluate(self, fake: ImageSet) -> None:
            scored.append(fake.read(np.arange(9)))
            raise UserError("enough")

    monkeypatch.setattr("gantk.scoring.build_evaluator", lambda *_, **__: Keeps())
    with pytest.raises(SystemExit):
        main(["eval", "--ckpt", "tiny", "--samples", "9"])
    assert np.array_equal(scored[0], wanted)
