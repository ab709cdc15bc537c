"""Tables in the terminal, whose cells break between words and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Cell = str | Text

_LONGEST_WORD = 32
"""A longer one, such as an address, is broken where the terminal is narrow."""


def table(headings: Sequence[str], rows: Sequence[Sequence[Cell]], *, sections: Sequence[int] = ()) -> Table:
    """Return a table of these rows, with a line behind each row whose number is in `sections`."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(headings):
        cells = [str(row[number]) for row in rows]
        words = [word for cell in (heading, *cells) for word in re.split(r"\s+", cell)]
        narrowest = max((len(word) for word in words if len(word) <= _LONGEST_WORD), default=0)
        made.add_column(heading, overflow="fold", no_wrap=number == 0, min_width=narrowest)
    for number, row in enumerate(rows):
        made.add_row(
            *(cell if isinstance(cell, Text) else Text(cell) for cell in row), end_section=number in sections
        )
    return made


def show(what: Table) -> None:
    """Print a table on standard output."""
    Console().print(what)
