"""What may be imported, from where, and at what cost."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "torchvision",
    "accelerate",
    "datasets",
    "wandb",
    "torchmetrics",
    "sklearn",
    "scipy",
    "pyarrow",
    "numpy",
)


def modules_after(code: str) -> set[str]:
    code += "\nimport sys; print('MODULES', *sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import gantk",
        "import gantk_eval",
        "from gantk.cli import main\ntry: main(['--help'])\nexcept SystemExit as stop: assert not stop.code",
        "from gantk.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit as stop: assert not stop.code",
        "from gantk.cli import main\ntry: main(['--version'])\nexcept SystemExit as stop: assert not stop.code",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    assert modules_after(code).isdisjoint(HEAVY)


IMPORT_ALL = """
import importlib, inspect, pkgutil
import gantk, gantk_eval
assert dir(gantk) == ["__version__", "load_config", "train"], dir(gantk)
before = gantk.train
for package in (gantk, gantk_eval):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
assert dir(gantk) == ["__version__", "load_config", "train"], dir(gantk)
assert inspect.signature(gantk.train).parameters.keys() == inspect.signature(before).parameters.keys()
for package in (gantk, gantk_eval):
    for name in package.__all__:
        thing = getattr(package, name)
        assert callable(thing) or isinstance(thing, str), (package, name)
from gantk.train import main
from gantk import train
assert callable(main)
for number, call in enumerate((gantk.train, train, before)):
    run = call("configs/tiny.yaml", f"name=run{number}", "train.kimg=0.064", "evaluate.every_kimg=99", resume="never")
    assert (run.folder / "checkpoints").is_dir()
print("TRAINED", number + 1)
"""


def test_a_tool_that_imports_every_module_leaves_the_functions_of_the_packages(project_root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, cwd=project_root)
    assert done.stdout.endswith("TRAINED 3\n"), done.stderr


def test_the_check_on_heavy_imports_can_fail() -> None:
    assert "numpy" in modules_after("import numpy")


def test_gantk_eval_never_imports_gantk(project_root: Path) -> None:
    """By its sources, in functions too, and by what importing every module of it loads."""
    package = project_root / "evaluation" / "gantk_eval"
    modules = []
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        modules.append(name)
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names.append(node.module or "")
            assert not [n for n in names if n.partition(".")[0] == "gantk"], f"{path}:{node.lineno}"
    assert "gantk" not in modules_after(
        "import importlib\n" + f"for name in {modules!r}: importlib.import_module(name)"
    )


def test_no_module_bears_the_name_of_another(project_root: Path) -> None:
    """`accelerate launch gantk/train.py` once put `gantk/` first on the path, where a `datasets.py` would be `datasets`."""
    taken = set(sys.stdlib_module_names) | {
        name for name, owners in importlib.metadata.packages_distributions().items() if owners != ["gantk"]
    }
    assert {"random", "torch", "datasets", "wandb", "PIL"} <= taken
    ours = [path for path in (project_root / "gantk").rglob("*.py") if path.stem not in ("__init__", "__main__")]
    names = {path.stem for path in ours} | {path.parent.name for path in (project_root / "gantk").rglob("__init__.py")}
    assert {"train", "cli", "networks"} <= names
    assert sorted(names & taken) == []


def test_every_package_that_is_imported_is_declared(project_root: Path) -> None:
    project = (project_root / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    assert listed is not None
    declared = {canonical(name) for name in re.findall(r'"([\w.-]+)', listed[1])}
    optional = {"tensorboard"}
    imported: dict[str, str] = {}
    for path in [*(project_root / "gantk").rglob("*.py"), *(project_root / "evaluation" / "gantk_eval").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names.append(node.module or "")
            imported |= {name.partition(".")[0]: f"{path}:{node.lineno}" for name in names}
    owners = importlib.metadata.packages_distributions()
    assert {"torch", "filelock", "huggingface_hub", "yaml", "PIL"} <= imported.keys()
    for name, where in imported.items():
        if name not in sys.stdlib_module_names and name not in ("gantk", "gantk_eval"):
            found = {canonical(owner) for owner in owners[name]}
            assert found & (declared | optional), f"{where} imports {name}, which pyproject.toml does not declare"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
