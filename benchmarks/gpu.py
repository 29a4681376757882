"""What a GPU makes of it, in at most eight minutes: training at 32 and 64 px, and evaluation.

    python -m benchmarks.gpu                      on the CUDA device
    python -m benchmarks.gpu --device cpu --tiny  the same code at toy sizes, for its tests; its figures mean nothing

For each size, batch and precision, images/s of: the loop that everyone copies (float32, always); gantk's trainer with its
defaults (deterministic kernels), with `train.deterministic=false`, and compiled besides; a loop tuned by hand; and that
loop as a single CUDA graph, which shows what is left to gain: `gantk train` has no such mode. Beside them the floor of this
card (what its measured bf16 matrix rate and its measured memory bandwidth allow), and the share of the time in which the
GPU waits for the host. What there is no time for is left out, and said. The JSON file is written after each case.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks import records
from benchmarks.loops import TunedLoop, UsualLoop
from benchmarks.runs import made_up_images, own_folder, steps_of, trainer_for, write_npz
from benchmarks.timing import BusyMachineError, compare

BUDGET_S = 480.0
COMPILE_S = 75.0
"""What one compiled case may take; it is not begun with less left."""
H200 = {"arithmetic": 346_000, "traffic_eager": 281_000, "traffic_fused": 409_000}
"""PERFORMANCE.md's floors at 64 px, images/s; by arithmetic, not measured."""
H200_BYTES_PER_S = 4.8e12
Case = tuple[int, int, str]
"""Side in pixels, batch, precision."""


class GraphedLoop:
    """The whole step of a tuned loop as one CUDA graph: a replay is a single launch for the host."""

    def __init__(self, loop: TunedLoop) -> None:
        self.loop = loop
        self.real = next(loop.batches).clone()
        # Off the default stream, as capture wants it: kernels are chosen, moments and gradients made.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                loop.step_on(self.real)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            loop.step_on(self.real)

    def step(self) -> None:
        self.real.copy_(next(self.loop.batches))
        self.graph.replay()


class Bench:
    """One run of the benchmark.

    Args:
        device: where.
        tiny: toy sizes.
        budget_s: seconds for everything.
        out: the folder of the JSON file, where it is not the usual one.
    """

    def __init__(self, device: torch.device, tiny: bool, budget_s: float = BUDGET_S, out: Path | None = None) -> None:
        self.device, self.tiny, self.out = device, tiny, out
        self.end = time.perf_counter() + budget_s
        self.cuda = device.type == "cuda"
        self.left_out: list[str] = []
        self.results: dict[str, Any] = {"tiny": tiny, "device": device.type, "training": {}, "left_out": self.left_out}

    @property
    def left_s(self) -> float:
        return self.end - time.perf_counter()

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def cases(self) -> list[Case]:
        """The most telling first, for the others may find no time."""
        if self.tiny:
            return [(8, 4, "bf16"), (8, 4, "no")]
        return [(side, batch, p) for p in ("bf16", "no") for side in (64, 32) for batch in (128, 512)]

    # The card

    def limits(self) -> dict[str, float]:
        """This device's matrix rate in bf16, FLOP/s, and memory bandwidth, bytes/s (read and written)."""
        size = 256 if self.tiny else 8192
        a, b = (torch.randn(size, size, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        flops = 2 * size**3 / self._seconds(lambda: a @ b)
        long = torch.empty((1 << 16) if self.tiny else (1 << 30), dtype=torch.uint8, device=self.device)
        other = torch.empty_like(long)
        return {"bf16_flops": flops, "bytes_per_s": 2 * long.numel() / self._seconds(lambda: other.copy_(long))}

    def _seconds(self, work: Callable[[], object], times: int = 10) -> float:
        best = float("inf")
        for _ in range(5):
            self.synchronize()
            begun = time.perf_counter()
            for _ in range(times):
                work()
            self.synchronize()
            best = min(best, (time.perf_counter() - begun) / times)
        return best

    def floors(self, side: int, flops_per_image: float, limits: dict[str, float]) -> dict[str, float]:
        """Images/s that no implementation of the step exceeds on this card.

        By arithmetic from the FLOPs of a step and the measured rate. By memory traffic from PERFORMANCE.md's bytes for an
        image at 64 px (what its floors on an H200 come to); a quarter of them at 32 px, as the feature maps go.
        """
        share = (side / 64) ** 2
        return {
            "arithmetic_bf16": limits["bf16_flops"] / flops_per_image,
            **{
                kind: limits["bytes_per_s"] / (H200_BYTES_PER_S / H200[kind] * share)
                for kind in ("traffic_eager", "traffic_fused")
            },
        }

    # Training

    def training(self) -> None:
        limits = self.limits()
        self.results["limits"] = limits
        for case in self.cases():
            side, batch, precision = case
            name = f"{side}px batch {batch} {'fp32' if precision == 'no' else precision}"
            if self.left_s < 30 and not self.tiny:
                self.left_out.append(name)
                continue
            self.results["training"][name] = self.case(case, limits)
            self.write()
        # Compilation last: it takes most of the time, and the rest is worth having without it.
        for case in self.cases():
            side, batch, precision = case
            name = f"{side}px batch {batch} {'fp32' if precision == 'no' else precision}"
            if not self.cuda or name not in self.results["training"] or self.left_s < COMPILE_S + 30:
                self.left_out.append(f"{name}, compiled")
                continue
            try:
                self.compiled(case, self.results["training"][name])
            except Exception as error:  # a compiler that is missing or broken must not cost the other figures
                self.left_out.append(f"{name}, compiled ({str(error).strip().splitlines()[0][:120]})")
            self.write()

    def case(self, case: Case, limits: dict[str, float]) -> dict[str, Any]:
        side, batch, precision = case
        images = made_up_images((2 if self.tiny else 4) * max(batch, 8), side)
        bf16 = precision == "bf16"
        usual = UsualLoop(images, batch, self.device)
        tuned = TunedLoop(images, batch, self.device, bf16)
        loops: dict[str, Callable[[int], None]] = {
            "usual": self._free(lambda: usual.step()),
            "tuned": self._free(lambda: tuned.step()),
        }
        if self.cuda:
            graphed = GraphedLoop(TunedLoop(images, batch, self.device, bf16, capturable=True))
            loops["tuned_graphed"] = self._free(lambda: graphed.step())
        else:
            self.left_out.append(f"{side}px batch {batch} {precision}, as a CUDA graph: there is no CUDA device")
        with own_folder() as folder:
            data = write_npz(images, folder / "images.npz")
            loops["trainer"] = self._trainer(folder, data, case, deterministic=True)
            loops["trainer_nondeterministic"] = self._trainer(folder, data, case, deterministic=False)
            result = self._compare(loops, batch)
            result["gpu_waits"] = {name: self.waits(loop, result, batch, name) for name, loop in loops.items()}
        flops = self.flops_per_image(tuned, batch)
        result["flops_per_image"] = flops
        result["floors_images_per_second"] = self.floors(side, flops, limits)
        return result

    def compiled(self, case: Case, result: dict[str, Any]) -> None:
        side, batch, _ = case
        images = made_up_images(4 * batch, side)
        usual = UsualLoop(images, batch, self.device)
        with own_folder() as folder:
            data = write_npz(images, folder / "images.npz")
            loops = {
                "usual": self._free(lambda: usual.step()),
                "trainer_compiled": self._trainer(folder, data, case, deterministic=False, compile=True),
            }
            found = self._compare(loops, batch)
            waits = self.waits(loops["trainer_compiled"], found, batch, "trainer_compiled")
        for key in ("images_per_second", "times_usual"):
            result[key]["trainer_compiled"] = found[key]["trainer_compiled"]
        result["gpu_waits"]["trainer_compiled"] = waits

    def _free(self, step: Callable[[], object]) -> Callable[[int], None]:
        """Loops run as their authors run them: the fastest kernels, found by trying."""

        def steps(count: int) -> None:
            self._kernels(deterministic=False)
            for _ in range(count):
                step()

        return steps

    def _trainer(
        self, folder: Path, data: Path, case: Case, deterministic: bool, **train: object
    ) -> Callable[[int], None]:
        side, batch, precision = case
        device = "auto" if self.cuda else "cpu"
        name = f"run-{deterministic}-{len(train)}"
        trainer = trainer_for(
            folder, name, data, side, batch, precision, device=device, deterministic=deterministic, **train
        )

        def steps(count: int) -> None:
            self._kernels(deterministic)
            steps_of(trainer, count)

        return steps

    def _kernels(self, deterministic: bool) -> None:
        """What `train.deterministic` sets for the whole process; the variants of a comparison differ in it."""
        torch.backends.cudnn.deterministic = deterministic
        torch.backends.cudnn.benchmark = self.cuda and not deterministic
        torch.use_deterministic_algorithms(deterministic, warn_only=True)

    def _compare(self, loops: dict[str, Callable[[int], None]], batch: int) -> dict[str, Any]:
        steps = {name: self._steps_in_a_turn(loop) for name, loop in loops.items()}

        def turn(name: str) -> Callable[[], None]:
            def work() -> None:
                loops[name](steps[name])
                self.synchronize()

            return work

        rounds = 1 if self.tiny else 5
        found = compare(
            {name: turn(name) for name in loops},
            rounds=rounds,
            at_least=1,
            limit_s=min(40.0, max(self.left_s, 1.0)),
            # Here the processor only feeds the GPU: neighbours matter when they take much of it.
            others_may_use=float("inf") if self.tiny else 0.5,
        )
        speeds = {name: steps[name] * batch / found.seconds(name) for name in loops}
        return {
            "images_per_second": speeds,
            # Turns have their own numbers of steps, so that the ratio of speeds is that of the turns, rescaled.
            "times_usual": {
                name: found.ratio("usual", name) * steps[name] / steps["usual"] for name in loops if name != "usual"
            },
            "rounds": found.rounds,
            "rounds_thrown_away": found.thrown_away,
        }

    def _steps_in_a_turn(self, loop: Callable[[int], None]) -> int:
        """As many as take half a second, after what is chosen and compiled in the first ones."""
        if self.tiny:
            return 1
        loop(5)
        self.synchronize()
        begun = time.perf_counter()
        loop(5)
        self.synchronize()
        return max(3, round(0.5 * 5 / (time.perf_counter() - begun)))

    def waits(self, loop: Callable[[int], None], result: dict[str, Any], batch: int, name: str) -> float | None:
        """The share of a step in which no kernel runs: 1 − (kernels' time ÷ the step's time without a profiler)."""
        if not self.cuda:
            return None
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        steps = 10
        self.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            loop(steps)
            self.synchronize()
        busy = sum(
            event.self_device_time_total for event in profiler.key_averages() if event.device_type == DeviceType.CUDA
        )
        step = batch / result["images_per_second"][name]
        return max(0.0, 1.0 - busy / 1e6 / steps / step)

    def flops_per_image(self, loop: TunedLoop, batch: int) -> float:
        """Of a whole step, counted as it runs: 2 for a multiplication and its addition."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            loop.step()
        return counter.get_total_flops() / batch

    # Evaluation

    def evaluation(self) -> None:
        """Images/s through the Inception extractor (random weights cost the same), and of generating them."""
        from gantk_eval.extractors.inception import InceptionExtractor

        count = 2 if self.tiny else 2000
        images = made_up_images(count, 32).permute(0, 2, 3, 1).numpy()
        with tempfile.TemporaryDirectory() as folder:
            weights = random_inception(Path(folder) / "inception.pth")
            extractor = InceptionExtractor(weights, custom=True, device=self.device)
            chunk = 100

            def features() -> None:
                for start in range(0, count, chunk):
                    extractor.features(images[start : start + chunk])

            self._kernels(deterministic=False)
            if not self.tiny:
                features()
            seconds = self._seconds(features, times=1) if not self.tiny else _once(features)
        loop = TunedLoop(made_up_images(8, 8 if self.tiny else 32), 8, self.device, bf16=False)
        generator = copy.deepcopy(loop.generator).eval()

        def generate() -> np.ndarray:
            with torch.no_grad():
                fake: Tensor = generator(torch.rand(count, 100, device=self.device))
                return fake.add(1).mul(127.5).round().to(torch.uint8).cpu().numpy()

        self.results["evaluation"] = {
            "inception_images_per_second": count / seconds,
            "generated_images_per_second_32px": count / self._seconds(generate, times=1),
        }

    def write(self) -> Path:
        facts = {
            "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
            "h200_floors_of_performance_md_64px": H200,
            "seconds_left": round(self.left_s),
        }
        for result in self.results["training"].values():
            floor = min(result["floors_images_per_second"].values())
            shares = {name: speed / floor for name, speed in result["images_per_second"].items()}
            result["share_of_lowest_floor"] = {name: round(share, 3) for name, share in shares.items()}
            result["best_share_of_the_trainer"] = max(
                share for name, share in result["share_of_lowest_floor"].items() if name.startswith("trainer")
            )
        name = "gpu" if self.cuda else "gpu_code_on_the_cpu"
        return records.write(name, {**self.results, **facts}, self.out)

    def table(self) -> str:
        kinds = ("usual", "trainer", "trainer_nondeterministic", "trainer_compiled", "tuned", "tuned_graphed")
        heads = ("usual", "trainer", "not det.", "compiled", "tuned", "graphed")
        lines = [f"{'images/s':<22}" + "".join(f"{head:>18}" for head in heads) + f"{'lowest floor':>16}"]
        for name, result in self.results["training"].items():
            cells = []
            for kind in kinds:
                speed = result["images_per_second"].get(kind)
                times, waits = result["times_usual"].get(kind), result["gpu_waits"].get(kind)
                cell = "–" if speed is None else f"{speed:,.0f}"
                cell += f" {times:.1f}×" if times is not None else ""
                cell += f" {100 * waits:.0f}%" if waits is not None else ""
                cells.append(f"{cell:>18}")
            floor = min(result["floors_images_per_second"].values())
            trainer = max(v for k, v in result["images_per_second"].items() if k.startswith("trainer"))
            lines.append(f"{name:<22}" + "".join(cells) + f"{floor:>16,.0f} (trainer {100 * trainer / floor:.0f}%)")
        lines.append("(× usual; the share of the time in which the GPU waits)")
        for name, speed in self.results.get("evaluation", {}).items():
            lines.append(f"{name.replace('_', ' ')}: {speed:,.0f}")
        lines += [f"left out: {what}" for what in self.left_out]
        return "\n".join(lines)


def random_inception(path: Path) -> Path:
    """A file of torch-fidelity's Inception format with untrained weights."""
    import torch_fidelity.feature_extractor_inceptionv3 as theirs

    cls = theirs.FeatureExtractorInceptionV3
    with mock.patch.object(theirs.torch, "load"), mock.patch.object(cls, "load_state_dict"):
        network = cls("random", ["2048"], feature_extractor_weights_path="none")
    torch.save(network.state_dict(), path)
    return path


def _once(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="training and evaluation on a GPU, against the usual loop and the floors"
    )
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--tiny", action="store_true", help="toy sizes: tests the code, measures nothing")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for everything")
    parser.add_argument("--out", type=Path, default=None, help="folder of the JSON file")
    options = parser.parse_args(arguments)
    cuda = options.device == "auto" and torch.cuda.is_available()
    if not cuda and not options.tiny:
        parser.error(
            "there is no CUDA device: `--device cpu --tiny` tests the code; benchmarks.training_step is the CPU's"
        )
    bench = Bench(torch.device("cuda" if cuda else "cpu"), options.tiny, options.budget, options.out)
    try:
        bench.training()
        bench.evaluation()
    except BusyMachineError as error:
        bench.left_out.append(f"what comes after this: {error}")
    finally:
        bench._kernels(deterministic=False)
        path = bench.write()
    print(bench.table())
    print(f"written to {path}")


if __name__ == "__main__":
    main()
