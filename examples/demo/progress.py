"""Live progress of the demo: one row per task and engine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from examples.demo.cases import Case
from examples.demo.report import shortened
from examples.demo.sending import Outcome

_SHOWN_CHARACTERS = 40


class AnswersProgress:
    """Shows how many answers each task has while the block runs.

    On a terminal the rows are redrawn in place; elsewhere a line is printed when a task has its last answer.
    """

    def __init__(self, console: Console, cases: Iterable[Case]) -> None:
        self._console = console
        self._totals = Counter(case.group for case in cases)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._began = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
        self._bars = Progress(*columns, TextColumn("[dim]{task.fields[last]}"), console=console)
        self._rows: dict[tuple[str, str], TaskID] = {}

    def tell(self, outcome: Outcome) -> None:
        """Take in one more outcome."""
        group = outcome.case.group
        self._counts[group] += 1
        if self._console.is_terminal:
            last = shortened(outcome.problem or outcome.answer, _SHOWN_CHARACTERS)
            self._bars.update(self._rows[group], advance=1, last=last.replace("[", r"\["))
        elif self._counts[group] == self._totals[group]:
            seconds = time.monotonic() - self._began
            self._console.print(f"{_named(group)} {self._totals[group]} done after {seconds:.1f} s", highlight=False)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        if self._console.is_terminal:
            for group, total in sorted(self._totals.items()):
                self._rows[group] = self._bars.add_task(_named(group), total=total, last="")
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bars.stop()


def _named(group: tuple[str, str]) -> str:
    task, engine = group
    return f"{task:<20} {engine:<12}"
