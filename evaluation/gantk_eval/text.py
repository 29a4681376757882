"""Tables and numbers as text for people."""

from __future__ import annotations

import io
from collections.abc import Sequence

__all__ = ["columns", "number", "shortened"]


def columns(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), rule: bool = True) -> list[str]:
    """The lines of a table without borders: the first row is the head, and `rule` draws a line below it.

    `right`: the numbers of the columns that are aligned to the right. Nothing is cut or wrapped, whatever the terminal's width:
    what is wide goes into the last column.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for place in range(len(rows[0])):
        table.add_column(no_wrap=True, justify="right" if place in right else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    width = sum(max(Text(row[place]).cell_len for row in rows) + 2 for place in range(len(rows[0])))
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None, force_terminal=False, legacy_windows=False).print(table)
    lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
    if rule:
        lines.insert(1, "-" * max(Text(line).cell_len for line in lines))
    return lines


def number(value: float) -> str:
    """Four digits below 1,000, above it one after the point."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.1f}"


def shortened(names: Sequence[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
