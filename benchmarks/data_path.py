"""The default data path against torchvision's ImageFolder behind a DataLoader with two workers.

    python -m benchmarks.data_path

The images are CIFAR-10 as JPEG files, in folders by class (`$GANTK_DATA/cifar10_test.parquet`, or the same in
`../shared/data`); where that is missing, scikit-learn's digits at 32×32, which the result says. Both give normalised,
flipped float32 batches of 128 with labels. Decoding, which gantk does once, is timed apart. `--busy` is for a machine that
others use: by processor time, workers' included, instead of wall time.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import records
from benchmarks.runs import own_folder
from benchmarks.timing import OTHERS_MAY_USE, compare

BATCH = 128


def extract(folder: Path, limit: int) -> str:
    """Write JPEG files to `folder` by class, and say what they are."""
    import io

    import pyarrow.parquet as pq
    from PIL import Image

    for place in (os.environ.get("GANTK_DATA"), Path(__file__).resolve().parents[2] / "shared" / "data"):
        file = Path(place or "-") / "cifar10_test.parquet"
        if file.is_file():
            table = pq.read_table(file).slice(0, limit)
            rows = zip(table["img"].to_pylist(), table["label"].to_pylist(), strict=True)
            pictures = [(image["bytes"], label) for image, label in rows]
            what = "CIFAR-10 (JPEG copy)"
            break
    else:
        from sklearn.datasets import load_digits

        digits, pictures, what = load_digits(), [], "scikit-learn's digits at 32×32, as JPEG: CIFAR-10 is not at hand"
        for pixels, label in zip(digits.images[:limit], digits.target, strict=False):
            buffer = io.BytesIO()
            Image.fromarray((pixels * 15.9).astype("uint8")).resize((32, 32)).convert("RGB").save(buffer, "JPEG")
            pictures.append((buffer.getvalue(), int(label)))
    for number, (data, label) in enumerate(pictures):
        path = folder / str(label) / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return f"{what}, {len(pictures):,} images"


def measure(
    limit: int = 10_000, passes: int = 20, rounds: int = 7, limit_s: float = 120, busy: bool = False
) -> dict[str, Any]:
    """`passes`: epochs in a turn of the default path, which is over too soon to be timed alone."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    from gantk.config.schema import DataConfig
    from gantk.data import open_dataset
    from gantk.training.batches import Batches, Stream

    with own_folder() as folder:
        pictures = folder / "pictures"
        what = extract(pictures, limit)
        usual = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            ]
        )
        files = ImageFolder(str(pictures), usual)
        loader = DataLoader(files, BATCH, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True)
        begun = time.perf_counter()
        config = DataConfig(source="folder", path=str(pictures), resolution=32, flip=True, heldout_fraction=0.001)
        dataset = open_dataset(config, seed=0)
        decoding = time.perf_counter() - begun
        stream = Stream(dataset, 0, True, torch.device("cpu"), torch.float32)
        batches = Batches(stream, {}, seed=0, batch_size=BATCH, accumulation=1, rank=0, world_size=1)
        count = len(files) // BATCH

        def image_folder() -> int:
            return sum(len(images) for images, labels in loader)

        def default_path() -> int:
            seen = 0
            for step in range(passes * count):
                batches.begin_step()
                for batch in batches.next("d", step, 0, True):
                    seen += len(batch.images)
            return seen

        assert image_folder() * passes == default_path()
        found = compare(
            {"image_folder": image_folder, "gantk": default_path},
            rounds=rounds,
            limit_s=limit_s,
            others_may_use=float("inf") if busy else OTHERS_MAY_USE,
        )
        seconds, ratio = (found.process_seconds, found.process_ratio) if busy else (found.seconds, found.ratio)
        return {
            "data": what,
            "clock": "processor time" if busy else "wall time",
            "batch_size": BATCH,
            "images_per_second": {
                "image_folder_2_workers": round(count * BATCH / seconds("image_folder")),
                "gantk": round(passes * count * BATCH / seconds("gantk")),
            },
            "ratio": round(ratio("image_folder", "gantk") * passes, 1),
            "goal_ratio": 10,
            "decoding_once_s": round(decoding, 2),
            "rounds": found.rounds,
            "rounds_thrown_away": found.thrown_away,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="gantk's data path against ImageFolder with two workers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit", type=float, default=120, help="seconds")
    parser.add_argument("--busy", action="store_true", help="by processor time, whoever else is there")
    arguments = parser.parse_args()
    found = measure(rounds=arguments.rounds, limit_s=arguments.limit, busy=arguments.busy)
    speeds = found["images_per_second"]
    print(f"{found['data']}, batches of {BATCH}, images/s by {found['clock']}")
    print(f"ImageFolder, 2 workers {speeds['image_folder_2_workers']:>12,}")
    print(f"gantk                  {speeds['gantk']:>12,}   {found['ratio']} times as many")
    print(f"written to {records.write('data_path_busy' if arguments.busy else 'data_path', found)}")


if __name__ == "__main__":
    main()
