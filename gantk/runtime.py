"""The one place that builds the Accelerator and knows of devices, precision, ranks and threads."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import platform
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import accelerate
import numpy
import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, convert_to_fp32
from torch import Tensor, nn

import gantk
from gantk.allocator import keep_freed_memory
from gantk.collectives import gather_with_gradient as gather_with_gradient
from gantk.config.schema import TrainConfig
from gantk.errors import ConfigError
from gantk.records import processor_name

log = logging.getLogger("gantk")

# What other launchers may ask of Accelerate, and this trainer does itself or not at all.
_UNSUPPORTED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


@dataclass(frozen=True)
class InForce:
    """What the run really runs with; printed, and recorded in `environment.json` and every checkpoint."""

    device: str
    device_name: str
    precision: str
    world_size: int
    threads: int
    channels_last: bool
    compile: bool
    sync_batchnorm: bool
    torch: str
    gantk: str
    accelerate: str
    numpy: str
    python: str
    cuda: str | None
    """The version that PyTorch was built for; None where it was built for CPUs, as for `cudnn`."""
    cudnn: int | None

    def sentence(self) -> str:
        processes = "1 process" if self.world_size == 1 else f"{self.world_size} processes"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        each = "" if self.world_size == 1 else " each"
        return (
            f"{processes} on {self.device} ({self.device_name}), precision {self.precision}, "
            f"{threads}{each}, torch {self.torch}"
        )


def has_bf16(device_type: str) -> bool:
    """Whether the hardware multiplies in bfloat16; where it only emulates that, it is slower than float32."""
    if device_type == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device_type == "cpu":
        try:
            flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16 "))
    return False


def resolve_precision(wanted: str, device_type: str) -> str:
    """`auto` made definite.

    Raises:
        ConfigError: `fp16` without a GPU, where PyTorch would silently compute in float32.
    """
    if wanted == "auto":
        return "bf16" if has_bf16(device_type) else "no"
    if wanted == "fp16" and device_type != "cuda":
        raise ConfigError(
            f"`train.precision: fp16` needs a CUDA GPU, and this run is on {device_type}: use `train.precision=bf16` or `no`"
        )
    return wanted


def _processes_asked_for() -> int | None:
    """The number of processes that `accelerate launch` was told to start, read from its command line.

    It starts a single one, without a word, for several processes on CPUs; nothing in the environment tells.
    """
    import psutil

    try:
        parent = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return None
    # `accelerate launch`, `accelerate-launch` and `python -m accelerate.commands.launch`, behind an interpreter or not.
    if not any("accelerate" in word for word in parent[:4]) or not any("launch" in word for word in parent[:4]):
        return None
    options = dict(pairwise(parent))
    for word in parent:
        name, equals, value = word.partition("=")
        if equals:
            options[name] = value
    count = options.get("--num_processes") or options.get("--num-processes")
    if count is None:
        file = options.get("--config_file") or options.get("--config-file")
        if file is None and "--cpu" not in parent:
            file = _default_launch_file()
        return _processes_in(file) if file else None
    return int(count) if count.isdigit() else None


def _default_launch_file() -> str | None:
    """What `accelerate config` wrote, which `accelerate launch` follows where it is given no file."""
    from accelerate.commands.config.config_args import default_config_file

    return str(default_config_file) if os.path.isfile(default_config_file) else None


def _processes_in(launch_file: str) -> int | None:
    import yaml

    try:
        count = (yaml.safe_load(Path(launch_file).read_text(encoding="utf-8")) or {}).get("num_processes")
    except (OSError, yaml.YAMLError, AttributeError):
        return None
    return count if isinstance(count, int) else None


def processes_by_default() -> tuple[int, str]:
    """How many processes `accelerate launch` without options means to start here, and what says so."""
    file = _default_launch_file()
    count = _processes_in(file) if file else None
    if count is not None:
        return count, f"says {file}"
    gpus = torch.cuda.device_count()
    return max(1, gpus), "one for each GPU" if gpus else "there is no GPU"


def choose_device(wanted: str = "auto") -> torch.device:
    """The accelerator of this process, or the CPU, which a launch with `--cpu` asks for as well.

    Raises:
        ConfigError: for a name that is neither `auto` nor `cpu`.
    """
    if wanted not in ("auto", "cpu"):
        raise ConfigError(
            f"`--device {wanted}` is not known: `auto` takes the accelerator where there is one, `cpu` never does"
        )
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        wanted = "cpu"
    if wanted == "auto" and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if wanted == "auto" and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def connect(wanted: str = "auto") -> tuple[torch.device, bool]:
    """The device of this process and whether it is the main one; processes that were launched together are joined."""
    device = choose_device(wanted)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        state = PartialState(cpu=device.type == "cpu")
        _disconnect_at_exit()
        return state.device, state.is_main_process
    return device, True


def _disconnect_at_exit() -> None:
    atexit.unregister(disconnect)
    atexit.register(disconnect)


def disconnect() -> None:
    """Leave the process group; done at exit by every process that joined one.

    Gloo's threads live as long as any wrapped network, and need the interpreter's lock to drop the tensors of the last
    collective. One that asks for it when the interpreter is already shutting down aborts the process ("terminate called
    without an active exception"), after all work is done; so they get it here.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        time.sleep(0.1)


def _threads_left_by_launcher() -> int | None:
    """This process's share of the processors, where a launcher set one thread each without being asked to.

    `accelerate launch` and `torchrun` export OMP_NUM_THREADS=1, which leaves all but one core of a laptop idle. Where it
    stands in the launcher's own environment somebody wanted it.
    """
    import psutil

    from gantk.data.cache import processors

    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if not launched or os.environ.get("OMP_NUM_THREADS") != "1":
        return None
    try:
        if "OMP_NUM_THREADS" in psutil.Process(os.getppid()).environ():
            return None
    except psutil.Error:
        return None
    return max(1, processors() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class Runtime:
    """Devices, distribution and precision for one run.

    Raises:
        ConfigError: for a launch that asks for what the trainer does not do, or that started another number of
            processes than it was meant to.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._refuse_unsupported()
        device_type = choose_device(config.device).type
        cpu = device_type == "cpu"
        threads = config.threads or (_threads_left_by_launcher() if cpu else None)
        if threads is not None:
            torch.set_num_threads(threads)
        if cpu:
            keep_freed_memory()
        precision = resolve_precision(config.precision, device_type)
        mixed = precision if precision in ("bf16", "fp16") else "no"
        asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if asked not in ("no", mixed):
            log.warning("the launcher asks for mixed precision %s; the config has %s, and wins", asked, precision)
        # Buffers are averaged once a step by `average_buffers`: a broadcast before each forward pass would write to
        # tensors that the backward pass of the one before still needs.
        ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        # Accelerate keeps its settings for the life of the process; a second run in it may have others.
        AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = Accelerator(cpu=cpu, mixed_precision=mixed, kwargs_handlers=[ddp])
        self.device: torch.device = self.accelerator.device
        self.rank: int = self.accelerator.process_index
        self.world_size: int = self.accelerator.num_processes
        self.is_main: bool = self.accelerator.is_main_process
        if self.world_size > 1:
            _disconnect_at_exit()
        self._check_world(config)
        self.dtype = torch.float64 if precision == "float64" else torch.float32
        self.channels_last, self.compile, self.sync_batchnorm = (
            config.channels_last,
            config.compile,
            config.sync_batchnorm,
        )
        if self.sync_batchnorm and self.device.type != "cuda":
            raise ConfigError(
                "`train.sync_batchnorm` needs GPUs, for PyTorch has no synchronised batch norm on CPUs: set it to false"
            )
        if config.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.benchmark = False
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        else:
            torch.backends.cudnn.deterministic = False
            torch.backends.cudnn.benchmark = self.device.type == "cuda"
            torch.use_deterministic_algorithms(False)
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else processor_name()
        self.in_force = InForce(
            device=self.device.type,
            device_name=name,
            precision="fp32" if precision == "no" else precision,
            world_size=self.world_size,
            threads=torch.get_num_threads(),
            channels_last=self.channels_last,
            compile=self.compile,
            sync_batchnorm=self.sync_batchnorm,
            torch=torch.__version__,
            gantk=gantk.__version__,
            accelerate=accelerate.__version__,
            numpy=numpy.__version__,
            python=platform.python_version(),
            cuda=torch.version.cuda,
            cudnn=torch.backends.cudnn.version(),
        )

    def _refuse_unsupported(self) -> None:
        for variable, name in _UNSUPPORTED.items():
            if os.environ.get(variable, "").lower() in ("1", "true"):
                raise ConfigError(
                    f"the launcher asks for {name}, which gantk does not support: launch with plain data parallelism"
                )
        if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
            raise ConfigError("the launcher asks for a dynamo backend: use `train.compile=true` instead")
        if os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1") not in ("", "1"):
            raise ConfigError("the launcher asks for gradient accumulation: use `train.accumulation` instead")

    def _check_world(self, config: TrainConfig) -> None:
        asked = _processes_asked_for() if self.world_size == 1 else None
        for wanted, who in ((config.world_size, "`train.world_size`"), (asked, "the launcher")):
            if wanted is not None and wanted != self.world_size:
                raise ConfigError(
                    f"{who} asks for {wanted} processes and there are {self.world_size}: on GPUs launch with "
                    f"`--multi_gpu --num_processes {wanted}`, on CPUs with `ACCELERATE_USE_CPU=true torchrun --nproc_per_node {wanted}`"
                )

    # Networks and optimisers

    def place(self, network: nn.Module) -> nn.Module:
        """To the device, dtype and memory format of the run."""
        network = network.to(device=self.device, dtype=self.dtype)
        if self.channels_last:
            network = network.to(memory_format=torch.channels_last)
        return network

    def distribute(self, network: nn.Module) -> nn.Module:
        """The network as its own phase calls it: mixed precision, and gradients averaged over processes."""
        if self.sync_batchnorm and self.world_size > 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        if self.compile:
            network.compile(dynamic=False)
        with warnings.catch_warnings():
            # Its new name does not exist in the oldest PyTorch that we support, and does something else.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.* is deprecated", category=FutureWarning)
            wrapped: nn.Module = self.accelerator.prepare_model(network)
        if "_original_forward" in vars(network):
            # Accelerate turns mixed precision on inside the network, whatever the caller says. A phase has it on
            # already, but for the penalties, which must have it off.
            del network._original_forward, network.forward
            network.register_forward_hook(lambda module, given, output: convert_to_fp32(output))
        return wrapped

    @contextlib.contextmanager
    def accumulating(self, networks: list[nn.Module], last: bool) -> Iterator[None]:
        """Gradients are reduced in the last micro-batch only."""
        with contextlib.ExitStack() as stack:
            if not last:
                for network in networks:
                    stack.enter_context(self.accelerator.no_sync(network))
            yield

    # Collectives; each is a plain function of its arguments in a single process

    def average_buffers(self, modules: list[nn.Module]) -> None:
        """Floating-point buffers (batch-norm statistics, an objective's own state), averaged over the processes in place:
        each saw its own share of the batch.
        """
        if self.world_size == 1:
            return
        # Those of a synchronised batch norm are equal already.
        parts = [part for module in modules for part in module.modules() if not isinstance(part, nn.SyncBatchNorm)]
        self.average([b for part in parts for b in part.buffers(recurse=False) if b.is_floating_point()])

    def average(self, values: list[Tensor]) -> None:
        """Floating-point tensors, averaged over the processes in place."""
        if self.world_size == 1 or not values:
            return
        flat = torch.cat([value.flatten() for value in values])
        dist.all_reduce(flat)
        flat /= self.world_size
        for value, piece in zip(values, flat.split([value.numel() for value in values]), strict=True):
            value.copy_(piece.view_as(value))

    @torch.no_grad()
    def broadcast(self, modules: list[nn.Module]) -> None:
        """Give every process the main one's parameters and buffers, in place."""
        if self.world_size == 1:
            return
        for module in modules:
            for value in (*module.parameters(), *module.buffers()):
                # Collectives want memory in plain order.
                plain = value.contiguous()
                dist.broadcast(plain, 0)
                value.copy_(plain)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over processes."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def max(self, value: int) -> int:
        """The largest of the processes' values."""
        if self.world_size == 1:
            return value
        largest = torch.tensor(value, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest.item())

    def gather(self, rows: Tensor) -> Tensor:
        """[N, …] of each process to [world · N, …], in rank order, without gradient."""
        if self.world_size == 1:
            return rows
        gathered = [torch.empty_like(rows) for _ in range(self.world_size)]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    def barrier(self) -> None:
        if self.world_size > 1:
            self.accelerator.wait_for_everyone()

    def lost_a_peer(self, error: BaseException) -> bool:
        """Whether `error` is what a collective ends with when another process, or its machine, has died."""
        if self.world_size == 1 or not isinstance(error, RuntimeError):
            return False
        if isinstance(error, (dist.DistBackendError, dist.DistNetworkError)):
            return True
        text = str(error).lower()
        return any(sign in text for sign in ("closed by peer", "reset by peer", "broken pipe", "gloo/transport"))

    def describe(self) -> Mapping[str, object]:
        return asdict(self.in_force)
