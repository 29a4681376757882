"""What the documents say can be done: their links lead somewhere, and the command line takes their commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from gantk.cli import app
from gantk.recipes import recipes

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    *(ROOT / name for name in ("README.md", "evaluation/README.md", "benchmarks/README.md", "launch/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
)
WITH_COMMANDS = (*DOCUMENTS, *sorted((ROOT / "configs").glob("*.yaml")), *sorted((ROOT / "launch").glob("*.[sy]*")))
MAKE = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)


def links(text: str) -> list[str]:
    """Of links and pictures, what leads to a file."""
    found = re.findall(
        r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    )
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_lead_somewhere(document: Path) -> None:
    for link in links(document.read_text()):
        file, _, anchor = link.partition("#")
        target = document.parent / file if file else document
        assert target.exists(), f"{document}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{document}: {link}"


def test_links_are_found() -> None:
    assert links("[a](x.md#y) ![b](z.png) [c](https://example.org)\n```\nd[0](i)\n```\n") == ["x.md#y", "z.png"]
    assert anchors("# Your own images\n## W&B") == {"your-own-images", "wb"}
    assert sum(len(links(document.read_text())) for document in DOCUMENTS) > 10


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of ours: inline, in an indented block, or on a comment's line of its own."""
    text = text.replace("\\\n", " ")
    spans = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^(?: {4}|#\s+)([^`\n]+)$", text, re.MULTILINE)
    for span in spans:
        # A remark stands two spaces or more behind the command; what a pipe leads to is another program.
        span = re.split(r" {3,}(?=[a-z])|\s+#|;|\s\|\s", span.strip().removeprefix("$ "))[0]
        start = re.match(
            r"(?:until )?(?:\w+=\S* )*(gantk|accelerate launch|torchrun|sbatch|make|python -m benchmarks)\b", span
        )
        if start:
            try:
                # `--config …` has a value of the reader's own, `[--option A]` may be given, `key.sub=value …` may go on.
                words = re.sub(r"(--[\w-]+) …", r"\1 any", re.sub(r"\[KEY.*", "", span[start.start(1) :]))
                yield shlex.split(re.sub(r"[\[\]…]", " ", words))
            except ValueError:
                continue


def ours(words: list[str]) -> list[str] | None:
    """The arguments of `gantk` in a command, through whatever launches it; None where there are none."""
    if words[0] == "gantk":
        return words[1:]
    if words[:2] == ["sbatch", "launch/slurm.sh"]:
        return ["train", *words[2:]]
    if "gantk/train.py" in words:
        return ["train", *words[words.index("gantk/train.py") + 1 :]]
    if "-m" in words and words[words.index("-m") + 1 : words.index("-m") + 2] == ["gantk"]:
        return words[words.index("-m") + 2 :]
    return None


def check(words: list[str]) -> None:
    """Raises AssertionError where the command line would not take it, or where it names what is not there."""
    for word in words:
        if re.fullmatch(r"(?:configs|launch|gantk)/[\w/.]+", word):
            assert (ROOT / word).exists(), word
    if words[0] == "make":
        assert len(words) == 1 or words[1] in MAKE.findall((ROOT / "Makefile").read_text()), words
    if words[:2] == ["python", "-m"]:
        module = ROOT / words[2].replace(".", "/")
        assert words[2].endswith(".NAME") or module.with_suffix(".py").is_file() or module.is_dir(), words
    arguments = ours(words)
    if not arguments:
        return
    root: Any = typer.main.get_command(app)
    if len(arguments) == 1 and arguments[0] in root.commands:
        return  # the command's name alone, in a sentence
    above = root.make_context("gantk", [], resilient_parsing=True)
    try:
        name, _, rest = root.resolve_command(above, arguments)
        assert name in root.commands, f"no such command: {shlex.join(words)}"
        context = root.commands[name].make_context(name, list(rest), parent=above)
    except Exception as error:
        # A usage error, whether of click or of the click that newer releases of typer bring along.
        if not hasattr(error, "format_message"):
            raise
        raise AssertionError(f"{shlex.join(words)}: {error.format_message()}") from error
    named = [word for word in context.params.get("words") or () if "=" not in word]
    assert len(named) <= (0 if context.params.get("config") else 1), named
    for word in named:
        assert word in recipes() or word.endswith(".yaml") or word.isupper(), word


@pytest.mark.parametrize("document", WITH_COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_command_line_takes_the_documents_commands(document: Path) -> None:
    for words in commands(document.read_text()):
        check(words)


def test_commands_are_found_and_wrong_ones_refused() -> None:
    assert len(list(commands((ROOT / "README.md").read_text()))) > 20
    for wrong in (
        "    sbatch launch/slurm.sh --confg configs/dcgan_lsun.yaml",
        "`accelerate launch gantk/train.py --confg configs/tiny.yaml`",
        "    gantk eval --checkpoint run42",
        "`gantk evaluate --ckpt run42`",
    ):
        (words,) = commands(wrong)
        with pytest.raises(AssertionError, match=r"[Nn]o such|[Mm]issing"):
            check(words)
    for wrong in (
        "    gantk train --config configs/none.yaml", "`make quikstart`", "`python -m benchmarks.none`",
        "`gantk train quikstart`", "`gantk train --config configs/tiny.yaml tiny`", "`gantk train tiny ring`",
    ):  # fmt: skip
        (words,) = commands(wrong)
        with pytest.raises(AssertionError):
            check(words)
