"""The report while it is written, and the folders and sizes that all parts of it speak of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gantk.errors import UserError

GIB, MIB = 1 << 30, 1 << 20


@dataclass
class Page:
    """The lines so far, and the first thing that would stop a run."""

    lines: list[str] = field(default_factory=list)
    stop: tuple[int, str] | None = None

    def title(self, text: str) -> None:
        """The heading of a group of findings."""
        self.lines += ([""] if self.lines else []) + [text]

    def say(self, mark: Literal["ok", "warning", "missing"], what: str, text: str, fix: str = "") -> None:
        """One finding; `fix` is the command or file that would mend it."""
        self.lines.append(f"  {mark:7}  {what:17}  {text}")
        if fix:
            self.lines.append(f"{'':30}-> {fix}")

    def detail(self, text: str) -> None:
        """Further lines below a finding."""
        self.lines += [f"{'':30}{line}" for line in text.splitlines()]

    def stops(self, what: str, error: UserError) -> None:
        """`error` would end a run before its first step; its sentence names the fix."""
        self.say("missing", what, str(error))
        self.stop = self.stop or (error.exit_code, what)


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def readable(count: float) -> str:
    """A number of bytes, for people."""
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / MIB:,.1f} MiB"
