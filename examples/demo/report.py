"""What the demo shows at its end: every answer in a table, and one line that says whether all is well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from examples.demo.cases import Case
from examples.demo.sending import Outcome

_WIDEST = 120
_INPUT_WIDTH = 34
_TIME_WIDTH = 7
_ANSWER_CHARACTERS = 150
_REFUSED = "refused, as they must be"


def show(console: Console, cases: Sequence[Case], outcomes: Sequence[Outcome | None]) -> int:
    """Print the table, what is wrong, and the closing line; return the exit status."""
    _print_sections(console, outcomes)
    console.print()
    for case, outcome in zip(cases, outcomes, strict=True):
        problem = "nothing came back" if outcome is None else outcome.problem
        if problem is not None:
            line = Text.assemble(("✗ ", "red"), f"{case.request.task}, {case.shown_input}: {problem}")
            console.print(line)
    right = [outcome.case for outcome in outcomes if outcome is not None and outcome.problem is None]
    answered, refused = _split(right)
    to_answer, to_refuse = _split(cases)
    console.print(
        f"demo: {answered} of {to_answer} answered, {refused} of {to_refuse} refused cleanly, "
        f"{outcomes.count(None)} lost",
        style="bold green" if len(right) == len(cases) else "bold red",
        highlight=False,
    )
    return 0 if len(right) == len(cases) else 1


def _print_sections(console: Console, outcomes: Sequence[Outcome | None]) -> None:
    """Print a table in sections, one per task, engine and model, so that inputs and answers have room."""
    sections: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome is not None:
            sections.setdefault(_section(outcome.case), []).append(outcome)
    _print_rows(console, [("  input", "answer", "time")], "bold")
    for title in sorted(sections, key=lambda title: (title == _REFUSED, title)):
        console.print(Text(title, "bold cyan"))
        _print_rows(console, map(_row, sections[title]))


def _print_rows(console: Console, rows: Iterable[tuple[RenderableType, ...]], style: str = "") -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=_INPUT_WIDTH, overflow="fold")
    table.add_column(width=min(console.width, _WIDEST) - _INPUT_WIDTH - _TIME_WIDTH - 4, overflow="fold")
    table.add_column(width=_TIME_WIDTH, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row, style=style)
    console.print(table)


def _row(outcome: Outcome) -> tuple[RenderableType, ...]:
    style = "red" if outcome.problem else ""
    shown = Text(shortened(outcome.answer, _ANSWER_CHARACTERS), style)
    return Padding(Text(outcome.case.shown_input, style), (0, 0, 0, 2)), shown, f"{outcome.seconds:.1f} s"


def _section(case: Case) -> str:
    request = case.request
    return _REFUSED if case.refusal else f"{request.task} · {request.engine} · {request.model_name}"


def _split(cases: Sequence[Case]) -> tuple[int, int]:
    """Return how many are to be answered and how many to be refused."""
    refused = sum(bool(case.refusal) for case in cases)
    return len(cases) - refused, refused


def shortened(text: str, characters: int) -> str:
    """Return `text` on one line, its lines parted by slashes, its middle left out where it is too long."""
    line = " / ".join(" ".join(part.split()) for part in text.splitlines() if part.strip())
    if len(line) <= characters:
        return line
    kept = (characters - 3) // 2
    return f"{line[:kept]} … {line[-kept:]}"
