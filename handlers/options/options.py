"""The table of options, from options.toml; validation, translation, docs/options.md and the JSON Schema use it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from handlers.errors import InvalidOption
from handlers.options.spec import NO_BOUNDS, Bounds, over_bound, shown
from handlers.options.spec import OptionSpec as OptionSpec

_MOST_NAMED = 8
"""For how many unknown options of a request the nearest name is looked up, which takes time."""


class _Group(msgspec.Struct):
    tasks: tuple[str, ...]
    options: tuple[OptionSpec, ...]
    engines: tuple[str, ...] = ()


class _Table(msgspec.Struct):
    group: tuple[_Group, ...]


OPTIONS: Mapping[str, OptionSpec] = MappingProxyType(
    {
        spec.name: replace(spec, tasks=group.tasks, engines=group.engines)
        for group in msgspec.toml.decode(Path(__file__).with_suffix(".toml").read_text("utf-8"), type=_Table).group
        for spec in group.options
    }
)
"""Every option of the built-in tasks and engines, by canonical name."""


def options_of(task: str) -> dict[str, OptionSpec]:
    """Return the options of the table that apply to `task`, by canonical name."""
    return {name: spec for name, spec in OPTIONS.items() if not spec.tasks or task in spec.tasks}


def validate_options(
    options: Mapping[str, Any] | None,
    *,
    task_options: Mapping[str, OptionSpec] | None,
    engine: str,
    bounds: Bounds = NO_BOUNDS,
) -> dict[str, Any]:
    """Return `options` checked and under canonical names; an option that is null counts as not given.

    `task_options` are those the task takes. With None, names of the table are checked and others pass. An
    option that `engine` does not have is left out where its value is the neutral one. `bounds` are the largest
    values that the settings allow.

    Raises:
        InvalidOption: permanent; says which names are unknown and the nearest known ones, which value is out
            of range and the range or setting, which type is wrong and the right one, whose option it is.
    """
    if options is None or options == {}:
        return {}
    if not isinstance(options, Mapping):
        raise InvalidOption(f"options must be an object of names and values; got {shown(options)}")
    known = _by_any_name(OPTIONS if task_options is None else task_options)
    if task_options is not None and (unknown := [name for name in options if name not in known]):
        raise _unknown(unknown, known)
    checked: dict[str, Any] = {}
    written_as: dict[str, str] = {}
    for written, value in options.items():
        spec = known.get(written)
        if value is None:
            continue
        if spec is None:
            checked[written] = value
            continue
        if not spec.applies_to(engine):
            if spec.is_neutral(value):
                continue
            theirs = " and ".join(spec.engines)
            raise InvalidOption(f"options.{written} is an option of engine {theirs}, not of {engine}; leave it out")
        value = spec.check(value, written=written, engine=engine, bounds=bounds)
        if checked.get(spec.name, value) != value:
            raise InvalidOption(
                f"options.{written_as[spec.name]} and options.{written} are one option but are "
                f"{shown(checked[spec.name])} and {shown(value)}; give one of them"
            )
        checked[spec.name], written_as[spec.name] = value, written
    _check_beam_tokens(checked, bounds)
    return checked


def _check_beam_tokens(options: Mapping[str, Any], bounds: Bounds) -> None:
    """Refuse a beam search that would hold its model for minutes: it runs alone, each beam to its end."""
    beams, most = options.get("num_beams", 1), bounds.get("limits.max_beam_tokens")
    length = "max_new_tokens" if "max_new_tokens" in options else "max_length"
    if most is None or length not in options or not isinstance(beams, int) or beams < 2:
        return
    if (asked := beams * options[length]) > most:
        raise over_bound(f"num_beams times options.{length}", asked, most, "limits.max_beam_tokens")


def translate_options(options: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """Return validated `options` under the names that `engine` uses."""
    return {
        OPTIONS[name].engine_names.get(engine, name) if name in OPTIONS else name: value
        for name, value in options.items()
    }


def _by_any_name(options: Mapping[str, OptionSpec]) -> dict[str, OptionSpec]:
    return {name: spec for spec in options.values() for name in spec.names}


def _unknown(unknown: list[Any], known: Mapping[str, OptionSpec]) -> InvalidOption:
    """Return the error for names that the task does not take, with a hint for each."""
    everywhere = _by_any_name(OPTIONS)
    hints = []
    for name in map(str, unknown[:_MOST_NAMED]):
        if name in everywhere:
            hints.append(f"options.{name} is an option of {', '.join(everywhere[name].tasks)} only; leave it out")
        elif near := difflib.get_close_matches(name, known, n=1, cutoff=0.5):
            hints.append(f"options.{name} is unknown; the nearest known option is {near[0]}")
        else:
            hints.append(f"options.{name} is unknown; this task takes {', '.join(sorted(known)) or 'none'}")
    if len(unknown) > _MOST_NAMED:
        hints.append(f"{len(unknown) - _MOST_NAMED} more are unknown")
    return InvalidOption("; ".join(hints))


COLUMNS = ("option", "values", "tasks", "engines", "what it does")

_PAGE = """\
# Options

What a request may carry in `options`, by task and engine. A name that is not known is refused with the nearest
known one, a value out of range with the range, and an option that the task or engine has no use for as well.
An option that is null counts as not given. A name in brackets is what that engine calls the option; requests
may use either.

{table}
"""


def options_page() -> str:
    """Return docs/options.md: the rules for all options, and the table of every option, one row each."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *map(_markdown, OPTIONS.values())]
    return _PAGE.format(table="\n".join("| " + " | ".join(line) + " |" for line in lines))


def cells(spec: OptionSpec) -> tuple[str, str, str, str]:
    """Return the columns of `spec` beside its name, in plain text."""
    tasks, engines = ", ".join(spec.tasks) or "all", ", ".join(spec.engines) or "all"
    return spec.allowed, tasks, engines, spec.description


def _markdown(spec: OptionSpec) -> tuple[str, ...]:
    names = [f"`{spec.name}`", *(f"({engine}: `{name}`)" for engine, name in spec.engine_names.items())]
    return (" ".join(names), *(cell.replace("|", r"\|") for cell in cells(spec)))
