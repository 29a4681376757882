"""`gantk reference`: statistics of real images, built once and looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

reference_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Reference statistics: the mean and covariance of real images' features, which is all that FID needs of them.",
)


@reference_app.command("build")
def build(
    images: Annotated[str, typer.Option(metavar="PATH", help="Folder, zip, .npy, .npz, .parquet or a config's data.")],
    out: Annotated[Path, typer.Option(metavar="FILE.npz", help="pytorch-fid and clean-fid read it too.")],
    extractor: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="inception (default), dinov2, clip, or a file.")
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            metavar="pytorch-fid|adm",
            help="adm: with sFID's statistics and up to 10,000 images, for ADM's evaluator too.",
        ),
    ] = "pytorch-fid",
    precision: Annotated[str, typer.Option(metavar="fp32|bf16", help="bf16 is for monitoring.")] = "fp32",
    image_column: Annotated[str | None, typer.Option(metavar="NAME", help="Of parquet: the column of images.")] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu", help="`cpu` keeps off the accelerator.")] = "auto",
) -> None:
    """Work out the statistics of real images and write them.

    gantk reference build --images train/ --out train.npz; then: gantk eval --images samples/ --reference train.npz
    """
    from gantk_eval.reference import build_reference, write_reference

    from gantk.errors import ConfigError
    from gantk.runtime import connect
    from gantk.scoring import Reading, open_image_set, remarks

    if out.suffix.lower() != ".npz":
        raise ConfigError(f"`--out {out}` must end in .npz")
    if form not in ("pytorch-fid", "adm"):
        raise ConfigError(f"`--form {form}` is no form of statistics: choose pytorch-fid or adm")
    adm = form == "adm"
    place, is_main = connect(device)
    real = open_image_set(images, Reading(image_column=image_column))[0]
    found = build_reference(real, extractor=extractor, precision=precision, spatial=adm, device=place, progress=is_main)
    if is_main:
        for line in remarks(real):
            typer.echo(line, err=True)
        write_reference(out, found, real if adm else None)
        typer.echo(
            f"{out}: {found.count:,} images, {len(found.features.mean):,} features of {found.made['extractor']}"
            f"{' and its spatial ones' if adm else ''}",
            err=True,
        )


@reference_app.command("show")
def show(
    file: Annotated[str, typer.Argument(metavar="FILE.npz")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False,
) -> None:
    """Say what a file of statistics holds and how it was made.

    gantk reference show train.npz
    """
    import numpy as np
    from gantk_eval.reference import read_reference

    found = read_reference(file)
    facts = {
        "images": found.count,
        "features": len(found.features.mean),
        "norm of the mean": float(np.linalg.norm(found.features.mean)),
        "trace of the covariance": float(np.trace(found.features.covariance)),
        "spatial features, for sFID": 0 if found.spatial is None else len(found.spatial.mean),
        "sha256": found.fingerprint(),
        **(found.made or {"made": "by another program; extractor, weights and resize are not known"}),
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        typer.echo(f"{name:26} {'not said' if value is None else value}")
