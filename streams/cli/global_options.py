"""The options of every command, before or after its name, and the settings they lead to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from engines.configuration import Loaded
    from streams.settings import Settings

_SHARED: dict[str, Any] = {"expose_value": False, "rich_help_panel": "Settings"}


@dataclass(slots=True)
class GlobalOptions:
    """The values given so far."""

    config_file: Path | None = None
    overrides: list[str] = field(default_factory=list)


def load_settings(ctx: typer.Context, own: Mapping[str, Any] | None = None, *, logs: bool = False) -> Loaded[Settings]:
    """Return the settings for this command line, and configure logging to standard error.

    `own` holds what the command's own options set, by key, over all else; None and [] count as not given. Unless
    `logs`, which is for commands that keep running, only levels that --verbose or logging.level ask for are logged:
    the command reports its errors itself. A ConfigurationError is for `main`, which shows it and exits with 2.
    """
    from engines.configuration import LOCAL_FILE, OWN_FILE, load
    from streams.logs import configure_logging
    from streams.settings import Settings

    options = ctx.ensure_object(GlobalOptions)
    given = (
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in (own or {}).items()
        if value not in (None, [])
    )
    loaded = load(Settings, config_file=options.config_file, overrides=[*options.overrides, *given])
    if loaded.config_file == OWN_FILE and options.config_file is None and LOCAL_FILE.is_file():
        typer.echo(
            f"note: {OWN_FILE} is read, and not {LOCAL_FILE}, which names the servers of `inferstream up`; "
            f"for those, add --config {LOCAL_FILE}",
            err=True,
        )
    is_asked_for = logs or loaded.origins["logging.level"] != "default"
    told = loaded.settings.logging
    configure_logging(told if is_asked_for else told.model_copy(update={"level": "CRITICAL"}))
    return loaded


def global_options() -> list[Any]:
    """Return new objects of these options for one more command; they store values in the context."""
    holder = typer.Typer(add_completion=False)
    holder.command()(_signature)
    return list(typer.main.get_command(holder).params)


def _take_config(ctx: typer.Context, value: Path | None) -> None:
    if value is not None:
        ctx.ensure_object(GlobalOptions).config_file = value


def _take_overrides(ctx: typer.Context, value: list[str] | None) -> None:
    ctx.ensure_object(GlobalOptions).overrides += value or []


def _take_verbose(ctx: typer.Context, value: bool) -> None:
    if value:  # --set is stronger
        ctx.ensure_object(GlobalOptions).overrides.insert(0, "logging.level=DEBUG")


def _signature(
    _config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="YAML file; else $INFERSTREAM_CONFIG, ./inferstream.yaml, .local/inferstream.yaml.",
            callback=_take_config,
            **_SHARED,
        ),
    ] = None,
    _overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.NAME=VALUE",
            help="One setting, over file and environment; repeatable.",
            callback=_take_overrides,
            **_SHARED,
        ),
    ] = None,
    _verbose: Annotated[
        bool, typer.Option("--verbose", help="Log at level DEBUG.", callback=_take_verbose, **_SHARED)
    ] = False,
) -> None:
    """The options in typer's form; never called."""
