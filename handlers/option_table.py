"""The table of options for people to read."""

from __future__ import annotations

from handlers.option_spec import OptionSpec
from handlers.options import OPTIONS

COLUMNS = ("option", "values", "tasks", "engines", "what it does")

_PAGE = """\
# Options

What a request may carry in `options`, by task and engine. A name that is not known is refused with the nearest
known one, a value out of range with the range, and an option that the task or engine has no use for as well.
An option that is null counts as not given. A name in brackets is what that engine calls the option; requests
may use either.

{table}
"""


def options_table() -> str:
    """Return the table of every option as Markdown, one row each."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *map(_markdown, OPTIONS.values())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def options_page() -> str:
    """Return docs/options.md: the table, and what holds for every option."""
    return _PAGE.format(table=options_table())


def cells(spec: OptionSpec) -> tuple[str, str, str, str]:
    """Return what stands beside the name of `spec`, in plain text."""
    tasks, engines = ", ".join(spec.tasks) or "all", ", ".join(spec.engines) or "all"
    return spec.allowed, tasks, engines, spec.description


def _markdown(spec: OptionSpec) -> tuple[str, ...]:
    names = [f"`{spec.name}`", *(f"({engine}: `{name}`)" for engine, name in spec.engine_names.items())]
    return (" ".join(names), *(cell.replace("|", r"\|") for cell in cells(spec)))
