"""Tables in the terminal; cells are broken only between words."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

Cell = str | Text

_UNBOUNDED = 10_000
_LONGEST_WORD = 32
"""A longer word, such as an address, is broken where the terminal is narrow."""


def standard_output() -> Console:
    """Return standard output, as wide as the terminal, or as anything needs where there is none."""
    is_bounded = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if is_bounded else _UNBOUNDED)


def show(headings: Sequence[str], rows: Sequence[Sequence[Cell]], *, sections: Sequence[int] = ()) -> None:
    """Print rows on standard output, with a line after each row whose number is in `sections`.

    A table, as wide as needed where the output is not a terminal. In a terminal that is too narrow, one block of
    lines per row, so that nothing is cut off.
    """
    out = standard_output()
    table = _table(headings, rows, sections)
    if Measurement.get(out, out.options.update(width=_UNBOUNDED), table).minimum <= out.width:
        out.print(table)
        return
    for row in rows:
        out.print(Text(str(row[0]), style="bold"), soft_wrap=True)
        about = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2))
        for heading, cell in zip(headings[1:], row[1:], strict=True):
            about.add_row(Text(f"  {heading}", style="dim"), cell)
        out.print(about)


def _table(headings: Sequence[str], rows: Sequence[Sequence[Cell]], sections: Sequence[int]) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(headings))
    for number, heading in enumerate(headings):
        cells = [str(row[number]) for row in rows]
        words = [word for cell in (heading, *cells) for word in re.split(r"\s+", cell)]
        narrowest = max((len(word) for word in words if len(word) <= _LONGEST_WORD), default=0)
        made.add_column(heading, overflow="fold", no_wrap=number == 0, min_width=narrowest)
    for number, row in enumerate(rows):
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row), end_section=number in sections)
    return made
