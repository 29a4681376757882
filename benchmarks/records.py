"""What a benchmark leaves: a JSON file in `benchmarks/results/`, with the machine, the versions and the command."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from gantk.records import environment

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Processor, cores, memory, GPUs; nothing that names the host."""
    facts = environment()
    return {
        "processor": facts["cpu"]["model"],
        "cores": facts["cpu"]["usable"],
        "memory_gib": round(facts["cpu"]["memory_bytes"] / 2**30),
        "gpus": [gpu["name"] for gpu in facts["accelerators"]],
        "system": facts["platform"].partition("-")[0],
    }


def versions() -> dict[str, str]:
    facts = environment()
    return {"python": facts["python"], **facts["packages"]}


def command() -> str:
    """The command line of this process, as one types it."""
    name = getattr(sys.modules["__main__"].__spec__, "name", None)
    return " ".join(["python", "-m", name, *sys.argv[1:]] if name else ["python", *sys.argv])


def write(name: str, figures: Mapping[str, Any], folder: Path | None = None) -> Path:
    """Write `figures` to `NAME.json` and give its path.

    Args:
        name: the benchmark's.
        figures: JSON-able; units in the keys.
        folder: default `benchmarks/results/`.
    """
    folder = RESULTS if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "benchmark": name,
        "command": command(),
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "figures": dict(figures),
    }
    path = folder / f"{name}.json"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(values, indent=1) + "\n")
    temporary.replace(path)
    return path
