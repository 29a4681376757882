"""The benchmarks themselves, at toy sizes: that they compare what they say. How fast anything is, is not tested."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import allocator, conditional, data_path, gpu, start, training_step
from benchmarks.loops import LATENT_DIM, TunedLoop, UsualLoop
from benchmarks.runs import made_up_images

CPU = torch.device("cpu")


def gradients(loop: UsualLoop | TunedLoop) -> dict[str, list[torch.Tensor]]:
    """What each optimiser steps with in one step of `loop`."""
    found = {}
    for name, network, optimizer in (
        ("d", loop.discriminator, loop.optimizer_d),
        ("g", loop.generator, loop.optimizer_g),
    ):

        def keep(*args: Any, name: str = name, network: torch.nn.Module = network, **kwargs: Any) -> None:
            found[name] = [p.grad.clone() for p in network.parameters() if p.grad is not None]

        optimizer.register_step_pre_hook(keep)
    torch.manual_seed(0)  # the same noise
    loop.step()
    return found


@pytest.fixture
def in_double() -> Iterator[None]:
    """In single precision a unit next to 0 may fall to either side of its ReLU."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_double")
def test_the_tuned_loop_plays_the_same_game() -> None:
    """Or it would be no baseline: frozen weights, one backward pass and another layout change no gradient."""
    images = made_up_images(8, 16)
    usual, tuned = UsualLoop(images, 8, CPU), TunedLoop(images, 8, CPU, bf16=False)
    tuned.generator.load_state_dict(usual.generator.state_dict())
    tuned.discriminator.load_state_dict(usual.discriminator.state_dict())
    for loop in (usual, tuned):
        # Adam's first step goes by the signs alone, and that of a gradient near 0 is the rounding's.
        loop.optimizer_d.param_groups[0]["lr"] = 0.0
    a, b = gradients(usual), gradients(tuned)
    assert a.keys() == b.keys() == {"d", "g"}
    for name in a:
        for x, y in zip(a[name], b[name], strict=True):
            assert torch.linalg.vector_norm(x - y) <= 1e-9 * torch.linalg.vector_norm(x), name


def test_the_operations_of_a_step_are_counted() -> None:
    """PERFORMANCE.md has 2.27 GFLOP for an image at 64 px, worked out by hand."""
    bench = gpu.Bench(CPU, tiny=True)
    counted = bench.flops_per_image(TunedLoop(made_up_images(4, 64), 4, CPU, bf16=False), 4)
    assert counted == pytest.approx(2.27e9, rel=0.02)


def test_floors_are_performance_mds_on_its_own_card() -> None:
    bench = gpu.Bench(CPU, tiny=True)
    card = {"bf16_flops": 2.27e9 * gpu.H200["arithmetic"], "bytes_per_s": gpu.H200_BYTES_PER_S}
    floors = bench.floors(64, 2.27e9, card)
    assert floors == pytest.approx({"arithmetic_bf16": 346e3, "traffic_eager": 281e3, "traffic_fused": 409e3})
    assert bench.floors(32, 0.38e9, card)["traffic_eager"] == pytest.approx(4 * 281e3)


def test_the_gpu_benchmark_runs_through_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path)])
    values = json.loads((tmp_path / "gpu_code_on_the_cpu.json").read_text())["figures"]
    assert set(values["training"]) == {"8px batch 4 bf16", "8px batch 4 fp32"}
    for case in values["training"].values():
        assert set(case["images_per_second"]) == {"usual", "tuned", "trainer", "trainer_nondeterministic"}
        assert all(speed > 0 for speed in case["images_per_second"].values())
    assert values["evaluation"]["inception_images_per_second"] > 0
    said = capsys.readouterr().out
    assert "left out: 8px batch 4 bf16, as a CUDA graph: there is no CUDA device" in said
    assert not torch.are_deterministic_algorithms_enabled()


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "there is no CUDA device" in capsys.readouterr().err


@pytest.mark.gpu
def test_a_graph_of_a_step_trains_as_the_step_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, with the same noise: three replays move the weights as three steps do."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    device, images = torch.device("cuda"), made_up_images(8, 16)
    noise = torch.randn(8, LATENT_DIM, device=device)
    monkeypatch.setattr(torch, "randn", lambda *size, **options: noise)
    plain, other = (TunedLoop(images, 8, device, bf16=False, capturable=True) for _ in range(2))
    for name in ("generator", "discriminator"):
        getattr(other, name).load_state_dict(getattr(plain, name).state_dict())
    before = [p.clone() for p in plain.generator.parameters()]
    graphed = gpu.GraphedLoop(other)
    first = next(plain.batches).clone()
    for _ in range(3):  # as the graph's capture does
        plain.step_on(first)
    for _ in range(3):
        graphed.step()
        plain.step()
    for mine, its, old in zip(plain.generator.parameters(), other.generator.parameters(), before, strict=True):
        assert (mine - old).abs().max() > 2e-4
        torch.testing.assert_close(its, mine, rtol=0, atol=1e-4)


def test_the_allocator_is_timed() -> None:
    threads = torch.get_num_threads()
    found = allocator.turn(8, 8, "no", 1, threads=1)
    torch.set_num_threads(threads)
    assert found["ms_a_step"] > 0
    assert found["peak_megabytes"] > 100
    torch.use_deterministic_algorithms(False)


def test_the_step_is_compared() -> None:
    threads = torch.get_num_threads()
    found = training_step.measure(8, 8, "no", 1, threads=1, rounds=2, others_may_use=float("inf"))
    torch.set_num_threads(threads)
    assert set(found.turns) == {"usual", "tuned", "trainer"}
    figures = training_step.figures(found, 8)
    assert (figures["rounds"], figures["clock"]) == (2, "wall time")
    assert training_step.figures(found, 8, processor_time=True)["clock"] == "processor time"
    assert all(speed > 0 for speed in figures["images_per_second"].values())
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_data_path_gives_as_many_images() -> None:
    """It asserts itself that both sides give the same number."""
    figures = data_path.measure(limit=300, passes=2, rounds=1, busy=True)
    assert figures["ratio"] > 0
    assert "300 images" in figures["data"]


@pytest.mark.slow
def test_a_start_is_timed_to_its_first_step(tmp_path: Path) -> None:
    config = Path(__file__).resolve().parents[2] / "configs" / "tiny.yaml"
    found = start.measure(["--config", str(config)], times=1, others_may_use=float("inf"))
    assert found["seconds_to_first_step"] > 0
    assert found["starts"] == 1


def test_the_readme_has_every_result_and_every_command(project_root: Path) -> None:
    folder = project_root / "benchmarks"
    readme = (folder / "README.md").read_text()
    named = set(re.findall(r"`python -m benchmarks\.(\w+)", readme))
    assert named >= {"training_step", "data_path", "start", "gpu"}
    assert [name for name in sorted(named - {"NAME"}) if not (folder / f"{name}.py").is_file()] == []
    for result in (folder / "results").glob("*.json"):
        # Its module, whatever the options and folders were.
        assert " ".join(json.loads(result.read_text())["command"].split()[:3]) in readme, result.name


def test_the_conditional_networks_against_the_unconditional(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("GANTK_RUNS", "GANTK_CACHE"):
        monkeypatch.setenv(variable, "set by the benchmark itself")
    found = conditional.measure(8, 1, 4, 16, rounds=1, steps=1)
    assert found.keys() == {"dcgan_ms", "conditional_ms", "paper_ms", "conditional_to_dcgan", "paper_to_dcgan"}
    assert found["paper_to_dcgan"] == pytest.approx(found["paper_ms"] / found["dcgan_ms"], rel=0.1)
