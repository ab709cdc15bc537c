"""`inferstream config`: the settings in force, with where each comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Annotated, Any

import typer

from engines.configuration import MASK, Loaded, mask_password_in_url
from engines.settings_tree import leaves
from streams.cli import examples, load_settings
from streams.cli.sample import sample_yaml
from streams.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


class Format(StrEnum):
    TABLE = "table"
    YAML = "yaml"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """One setting as it may be shown: JSON-able, a secret masked."""

    section: str
    name: str
    value: Any
    origin: str
    description: str


@app.command(
    epilog=examples(
        "inferstream config",
        "inferstream config --set kafka.group_id=mine --format yaml",
        "inferstream config --sample > inferstream.yaml",
    )
)
def config(
    ctx: typer.Context,
    format: Annotated[
        Format, typer.Option("--format", "-f", help="How to print them.", case_sensitive=False)
    ] = Format.TABLE,
    sample: Annotated[
        bool,
        typer.Option("--sample", help="Print a commented file of all settings with their defaults instead."),
    ] = False,
) -> None:
    """Show the settings in force, each with its origin; secrets are masked.

    Later ones win: defaults, the YAML file, the environment ([cyan]INFERSTREAM_<SECTION>__<NAME>[/cyan]),
    the command line ([cyan]--set section.name=value[/cyan]).
    """
    if sample:
        typer.echo(sample_yaml(Settings), nl=False)
        return
    shown = list(shown_settings(load_settings(ctx)))
    if format is Format.JSON:
        typer.echo(json.dumps(_tree(shown), indent=2, ensure_ascii=False))
    elif format is Format.YAML:
        typer.echo("\n".join(_yaml_lines(shown)))
    else:
        _print_table(shown)


def shown_settings(loaded: Loaded[Settings]) -> Iterator[ShownSetting]:
    """Yield every setting in the order of the tree."""
    values = loaded.settings.model_dump(mode="json")
    for key, leaf in leaves(type(loaded.settings)).items():
        section, _, name = key.partition(".")
        value = values[section][name]
        if leaf.secret and value is not None:
            value = MASK
        elif isinstance(value, str):
            value = mask_password_in_url(value)
        yield ShownSetting(section, name, value, loaded.origins[key], leaf.field.description or "")


def _tree(shown: list[ShownSetting]) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        section: {one.name: {"value": one.value, "origin": one.origin} for one in members}
        for section, members in groupby(shown, key=lambda one: one.section)
    }


def _yaml_lines(shown: list[ShownSetting]) -> Iterator[str]:
    for section, members in groupby(shown, key=lambda one: one.section):
        yield f"{section}:"
        for one in members:
            origin = "" if one.origin == "default" else f"  # {one.origin}"
            yield f"  {one.name}: {json.dumps(one.value, ensure_ascii=False)}{origin}"


def _print_table(shown: list[ShownSetting]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting", no_wrap=True)
    for heading in ("value", "from", "what it is"):
        table.add_column(heading, overflow="fold")
    for _, members in groupby(shown, key=lambda one: one.section):
        for one in members:
            given = one.origin != "default"
            table.add_row(
                Text(f"{one.section}.{one.name}", style="bold" if given else ""),
                Text(_plain(one.value), style="green" if given else "cyan"),
                Text(one.origin, style="" if given else "dim"),
                Text(one.description, style="dim"),
            )
        table.add_section()
    Console().print(table)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "-" if value is None else json.dumps(value, ensure_ascii=False)
