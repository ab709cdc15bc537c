"""What the demo shows: every answer in a table, and one line that says whether all is well."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from examples.demo.cases import Case

_LEAST_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back for one case."""

    case: Case
    answer: str
    seconds: float
    """From producing the request to having its outcome."""
    problem: str | None
    """What is wrong with it; None where it is as it must be."""


def show(console: Console, outcomes: list[Outcome], lost: list[Case]) -> int:
    """Print the table, what is wrong, and the closing line; return the exit status."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading, width in (("task", 15), ("model", 21), ("input", None), ("answer", None)):
        table.add_column(heading, width=width, ratio=None if width else 1, overflow="ellipsis", no_wrap=True)
    table.add_column("time", justify="right", width=6, no_wrap=True)
    for outcome in outcomes:
        style = "red" if outcome.problem else "yellow" if outcome.case.refusal else ""
        case = outcome.case
        table.add_row(
            *(case.task, case.model, case.shown_input, outcome.answer, f"{outcome.seconds:.1f} s"),
            style=style,
        )
    console.print(table, width=max(console.width, _LEAST_WIDTH))
    for outcome in outcomes:
        if outcome.problem:
            console.print(f"[red]✗[/red] {outcome.case.shown_input}: {outcome.problem}", highlight=False)
    for case in lost:
        console.print(f"[red]✗[/red] {case.shown_input}: nothing came back", highlight=False)
    right = [outcome for outcome in outcomes if outcome.problem is None]
    answered = sum(not outcome.case.refusal for outcome in right)
    refused = len(right) - answered
    every = [*(outcome.case for outcome in outcomes), *lost]
    to_answer = sum(not case.refusal for case in every)
    to_refuse = len(every) - to_answer
    console.print(
        f"demo: {answered} of {to_answer} answered, {refused} of {to_refuse} refused cleanly, {len(lost)} lost",
        style="bold green" if len(right) == len(every) else "bold red",
        highlight=False,
    )
    return 0 if len(right) == len(every) else 1
