"""The `gantk` command. Everything heavy is imported where it is used, so that `gantk --help` answers at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from gantk_eval import terminal

from gantk import __version__, evaluation_commands, recipe_commands
from gantk.command_options import LAST_SEED, MOST, DeviceOption, finite, is_main
from gantk.errors import (
    CollapseError,
    ConfigError,
    DataError,
    InterruptedRunError,
    PreemptedError,
    UserError,
    full_disk,
)
from gantk.reference_commands import reference_app

app = typer.Typer(
    name="gantk",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""Train GANs on one machine or many, score them, and be told when they collapsed.

    A first run, with nothing downloaded:

        gantk train quickstart

        gantk show quickstart

    Your own images, and settings of your own:

        gantk train --data my-images

        gantk train dcgan_mnist optimizer.lr=1e-3

        gantk list

    Exit codes: 0 done, 1 another process of the run was lost, 2 usage or config, 3 data, weights or a full disk, 4
    checkpoint, 5 diverged, 6 collapsed (eval --fail-on collapse; training with `collapse.action: stop`, or `rollback` when
    its rollbacks are used up), 75 preempted, 130 interrupted.""",
)
app.add_typer(reference_app, name="reference")

for name, command in {**recipe_commands.COMMANDS, **evaluation_commands.COMMANDS}.items():
    app.command(name)(command)


@app.command("eval")
def evaluate(
    ckpt: Annotated[
        str | None,
        typer.Option(metavar="RUN|PATH", help="A run's name (also run42@best, run42@step-00001000), or a folder."),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Images to score: folder, zip, .npy, .npz, .parquet or a config's data."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="PATH", help="Real images to score --images against.")
    ] = None,
    heldout: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Other real images, for the floor and the collapse verdict."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=2, max=MOST, help="Samples to generate. Default: the config's evaluate.samples."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="fid,is,kid,…", help="Names from evaluation/README.md. Default: all that cost little."),
    ] = None,
    kid_subset_size: Annotated[
        int | None, typer.Option(min=20, max=MOST, help="Images in each of KID's subsets. Default: 1000.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=LAST_SEED, help="Of the samples. Default: the config's.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The result as JSON on stdout, and nothing else there.")
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw what the collapse verdict is about; a run has it in eval/ anyway."),
    ] = None,
    extractor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="inception, dinov2, clip, classifier, pixel_pca; their weights, or your own TorchScript or torch.export file.",
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="fp32|bf16", help="bf16: Inception twice as fast, for monitoring; other score names.")
    ] = "fp32",
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read, and count them.")
    ] = False,
    image_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of parquet files: the column of images, where several could be it."),
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of parquet files: the column of classes.")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Cross-check --images with torch-fidelity and torchmetrics, side by side."),
    ] = False,
    verdict: Annotated[
        bool,
        typer.Option(
            "--verdict/--no-verdict", help="Without: scores alone, and no classifier unless one of them needs it."
        ),
    ] = True,
    fail_on: Annotated[
        str | None, typer.Option(metavar="collapse", help="Exit 6 when the verdict is `collapsed`.")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Score a model, or any set of images, and say whether the generator collapsed.

    gantk eval --ckpt run42

    gantk eval --images samples/ --reference train/ --heldout test/ --json
    """
    if fail_on not in (None, "collapse"):
        raise ConfigError(f"`--fail-on {fail_on}` is not known: the one thing to fail on is `collapse`")
    if not verdict and (fail_on or picture):
        raise ConfigError("`--fail-on` and `--picture` are about the verdict: leave out `--no-verdict`")
    if (ckpt is None) == (images is None):
        raise ConfigError("give either `--ckpt RUN`, or `--images PATH --reference PATH`")
    if images is not None and reference is None:
        raise ConfigError("`--images` needs `--reference PATH`, the real images to compare with")
    if ckpt is not None and (reference or heldout):
        raise ConfigError("`--reference` and `--heldout` go with `--images`; with `--ckpt` the run's own data is used")
    if images is not None and samples is not None:
        raise ConfigError("`--samples` goes with `--ckpt`; all of `--images` are scored")
    if picture is not None and (picture.suffix.lower() != ".png" or not picture.resolve().parent.is_dir()):
        raise ConfigError(f"`--picture {picture}` cannot be written: name a .png file in a folder that is there")
    if metrics is not None and not metrics.strip(", "):
        raise ConfigError(
            "`--metrics` names no metrics: give some, as `fid,kid`, or leave it out for all that cost little"
        )
    if skip_unreadable and images is None:
        raise ConfigError("`--skip-unreadable` goes with `--images`; a run's own data is checked when it is prepared")
    if (image_column or label_column) and images is None:
        raise ConfigError(
            "`--image-column` and `--label-column` go with `--images`; those of a run's own data are `data.image_column` and "
            "`data.label_column` of its config"
        )
    if verify and images is None:
        raise ConfigError("`--verify` goes with `--images PATH --reference PATH`")
    if verify and (fail_on or picture or heldout or metrics):
        raise ConfigError(
            "`--verify` compares scores and does nothing else: give `--fail-on`, `--picture`, `--heldout` and `--metrics` to a "
            "command without it"
        )
    from gantk import scoring

    names = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    if names is not None:
        scoring.check_metrics(names, extractor)
    if fail_on and images is not None and reference is not None and heldout is None:
        scoring.check_can_collapse(reference)

    reading = scoring.Reading(skip_unreadable, image_column, label_column)
    if verify:
        assert images is not None
        assert reference is not None
        check, lines = scoring.verify_images(images, reference, device=device, extractor=extractor, reading=reading)
        if is_main():
            typer.echo(json.dumps(check.to_dict(), indent=1) if as_json else check.table())
            for line in lines:
                typer.echo(line, err=True)
        if not check.agrees:
            raise DataError(
                "the scores differ from the exact ones by more than their limits: the lines marked DIFFERS say where"
            )
        return
    options: dict[str, Any] = {
        "metrics": names,
        "kid_subset_size": kid_subset_size,
        "extractor": extractor,
        "precision": precision,
        **({} if verdict else {"collapse": False}),
    }
    if ckpt is not None:
        outcome = scoring.evaluate_checkpoint(ckpt, samples=samples, seed=seed, device=device, **options)
    else:
        assert images is not None
        assert reference is not None
        outcome = scoring.evaluate_images(
            images, reference, heldout, seed=seed or 0, device=device, reading=reading, **options
        )
    if not is_main():
        return
    table = json.dumps(outcome.report.to_dict(), indent=1) if as_json else outcome.report.table()
    typer.echo(table)
    for line in outcome.notes:
        typer.echo(line, err=True)
    collapsed = fail_on is not None and outcome.report.verdict == "collapsed"
    if picture is not None:
        try:
            scoring.write_picture(picture, outcome.report)
        except DataError as error:
            if not collapsed:
                raise
            # Who asked to fail on collapse reads the exit code, and it must be that.
            typer.echo(f"warning: {error}", err=True)
    if collapsed:
        raise CollapseError("the verdict is `collapsed`, and `--fail-on collapse` was given")


@app.command()
def sample(
    ckpt: Annotated[str, typer.Option(metavar="RUN|PATH", help="As for `gantk eval`.")],
    out: Annotated[Path, typer.Option(metavar="DIR|FILE.png|FILE.npz", help="A PNG a sample, one grid, or arrays.")],
    count: Annotated[int, typer.Option(min=1, max=MOST)] = 64,
    seed: Annotated[int | None, typer.Option(min=0, max=LAST_SEED, help="Default: the run's.")] = None,
    label: Annotated[str | None, typer.Option(help="A class, by name or number, of a conditional model.")] = None,
    truncation: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, callback=finite, help="Scales a normal latent: below 1 less varied, often cleaner."
        ),
    ] = 1.0,
    device: DeviceOption = "auto",
) -> None:
    """Draw samples. Sample i of a seed is the same image whatever the count.

    gantk sample --ckpt run42 --out grid.png --count 100
    """
    import numpy as np

    from gantk.runs import find_checkpoint
    from gantk.runtime import choose_device
    from gantk.sampling import class_number, load_sampler, write_samples

    found = find_checkpoint(ckpt)
    typer.echo(f"sampling from {found.sentence}", err=True)
    sampler, config = load_sampler(found.checkpoint, choose_device(device), seed)
    labels = None if label is None else np.full(count, class_number(sampler, label))
    shown, chunk = config.tracking.progress, config.evaluate.batch_size
    write_samples(sampler, out, count, labels=labels, truncation=truncation, chunk=chunk, progress=shown)
    typer.echo(str(out))


@app.command()
def export(
    ckpt: Annotated[str, typer.Option(metavar="RUN|PATH", help="As for `gantk eval`.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
) -> None:
    """Write the generator alone, for others to sample from and to score: a folder that `--ckpt` takes.

    gantk export --ckpt run42@best --out my-generator
    """
    from gantk.runs import find_checkpoint
    from gantk.sampling import export_generator

    found = find_checkpoint(ckpt)
    typer.echo(f"exporting {found.sentence}", err=True)
    export_generator(found.checkpoint, out)
    typer.echo(str(out))


def _version(value: bool) -> None:
    if value:
        typer.echo(f"gantk {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; a user's mistake is one sentence on stderr.

    That nobody reads stdout or stderr any more ends nothing and changes no exit code.
    """
    with terminal.guarded():
        sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int | str | None:
    """Run the command line and return the exit code."""
    code: int | str | None = 0
    try:
        try:
            app(args=arguments)
        finally:
            sys.stdout.flush()
    except SystemExit as stop:
        code = stop.code
    except UserError as error:
        # A wrong config is wrong on every process, and all of them stop when they are asked to: that is said once.
        if is_main() or not isinstance(error, (ConfigError, InterruptedRunError, PreemptedError)):
            typer.echo(f"gantk: {error}", err=True)
        code = error.exit_code
    except OSError as error:
        if (said := full_disk(error, "the result")) is None:
            raise
        typer.echo(f"gantk: {said}", err=True)
        code = said.exit_code
    except KeyboardInterrupt:
        typer.echo("gantk: interrupted", err=True)
        code = 130
    return code
