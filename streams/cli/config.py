"""`inferstream config`: the settings in force with their origins, and a sample file of all settings."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

import typer
import yaml

from engines.config.setting_problems import MASK, mask_password_in_url, may_be_secret
from engines.config.settings_tree import leaves, sections
from engines.configuration import ConfigurationError, Loaded
from engines.registry import EngineRegistry
from streams.cli.command_line import command, load_settings, note, print_json
from streams.plugins import import_plugins
from streams.settings import Settings

_WIDTH = 110
_HEAD = """\
Settings of inferstream, made by: inferstream config --sample
Every line is optional. What is commented out shows the default (or an example, where the default is unset
or differs between machines). Stronger than this file are the environment, INFERSTREAM_<SECTION>__<NAME>,
and the command line, --set section.name=value; keep passwords in the environment.
"""


class ShownSetting(NamedTuple):
    """One setting for output: JSON-able, a secret masked."""

    path: tuple[str, ...]
    """Section and name; for a custom engine `engines`, the engine and the name."""
    value: Any
    origin: str
    description: str


@command(
    "inferstream config",
    "inferstream config --set kafka.group_id=mine --format yaml",
    "inferstream config --sample > inferstream.yaml",
)
def config(
    ctx: typer.Context,
    format: Annotated[
        Literal["table", "yaml", "json"],
        typer.Option("--format", "-f", help="How to print them.", case_sensitive=False),
    ] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    sample: Annotated[
        bool, typer.Option("--sample", help="Print a commented file of all settings with their defaults instead.")
    ] = False,
) -> None:
    """Show the settings in force, each with its origin; secrets are masked.

    Later ones win: defaults, the YAML file, the environment ([cyan]INFERSTREAM_<SECTION>__<NAME>[/cyan]),
    the command line ([cyan]--set section.name=value[/cyan]).
    """
    if sample:
        typer.echo("\n".join(sample_lines()))
        return
    loaded = load_settings(ctx)
    for problem in _problems_of_engines(loaded.settings):
        note(problem)
    shown = list(shown_settings(loaded))
    if as_json or format == "json":
        print_json(_tree(shown, lambda one: {"value": one.value, "origin": one.origin}))
    elif format == "yaml":
        typer.echo("\n".join(_yaml_lines(_tree(shown, lambda one: one))))
    else:
        _print_table(shown)


def _problems_of_engines(settings: Settings) -> list[str]:
    """Return what a worker would refuse of the settings of custom engines, which check them themselves."""
    if not settings.engines.names():
        return []
    try:
        import_plugins(settings.worker.plugins)
        EngineRegistry(settings).check_settings()
    except ConfigurationError as error:
        return list(error.problems)
    return []


def shown_settings(loaded: Loaded[Settings]) -> Iterator[ShownSetting]:
    """Yield every setting in the order of the tree, those of custom engines last."""
    values = loaded.settings.model_dump(mode="json", exclude={"engines"})
    for key, leaf in leaves(type(loaded.settings)).items():
        section, _, name = key.partition(".")
        value = _masked(values[section][name], leaf.secret)
        yield ShownSetting((section, name), value, loaded.origins[key], leaf.field.description or "")
    engines = loaded.settings.engines
    for engine in engines.names():
        for name, one in engines.of(engine).items():
            # Only the engine knows what these are, so a value that may be secret is not shown.
            value = _masked(one.value, may_be_secret(name))
            yield ShownSetting(("engines", engine, name), value, one.origin, f"Of engine {engine}.")


def _masked(value: Any, secret: bool) -> Any:
    if secret and value is not None:
        return MASK
    if isinstance(value, dict):
        return {name: _masked(one, may_be_secret(str(name))) for name, one in value.items()}
    if isinstance(value, list):
        return [_masked(one, False) for one in value]
    return mask_password_in_url(value) if isinstance(value, str) else value


def _tree(shown: list[ShownSetting], leaf: Callable[[ShownSetting], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for one in shown:
        *holders, name = one.path
        place = tree
        for holder in holders:
            place = place.setdefault(holder, {})
        place[name] = leaf(one)
    return tree


def _yaml_lines(tree: dict[str, Any], indent: str = "") -> Iterator[str]:
    for name, one in tree.items():
        if isinstance(one, dict):
            yield f"{indent}{_key(name)}:"
            yield from _yaml_lines(one, indent + "  ")
        else:
            origin = "" if one.origin == "default" else f"  # {one.origin}"
            yield f"{indent}{_key(name)}: {_json(one.value)}{origin}"


def _key(name: str) -> str:
    return name if name.isidentifier() and yaml.safe_load(name) == name else json.dumps(name)


def _print_table(shown: list[ShownSetting]) -> None:
    from rich.text import Text

    from streams.cli.tables import show

    rows = []
    for one in shown:
        given = one.origin != "default"
        rows.append(
            (
                Text(".".join(one.path), style="bold" if given else ""),
                Text(_plain(one.value), style="green" if given else "cyan"),
                Text(one.origin, style="" if given else "dim"),
                Text(one.description, style="dim"),
            )
        )
    ends = [number for number, (one, after) in enumerate(pairwise(shown)) if one.path[0] != after.path[0]]
    show(("setting", "value", "from", "what it is"), rows, sections=[*ends, len(rows) - 1])


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else "-" if value is None else _json(value)


def _json(value: Any) -> str:
    # JSON is YAML, and unlike a YAML dump it is the same with every version of the library.
    return json.dumps(value, ensure_ascii=False, default=str)


def sample_lines() -> Iterator[str]:
    """Yield the lines of a YAML file with every setting, commented out, with its description and allowed values."""
    yield from (f"# {line}" for line in _HEAD.splitlines())
    known = leaves(Settings)
    for section, holder in sections(Settings).items():
        yield ""
        yield f"# {(holder.__doc__ or '').strip()}"
        yield f"{section}:"
        for name in holder.model_fields:
            leaf = known[f"{section}.{name}"]
            about = f"{leaf.field.description} Takes {leaf.allowed}."
            yield from textwrap.wrap(about, _WIDTH, initial_indent="  # ", subsequent_indent="  # ")
            yield f"  #{name}: {_json(leaf.example)}"
