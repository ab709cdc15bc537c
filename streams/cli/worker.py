"""`inferstream worker`: consume requests, run models, publish results."""

from __future__ import annotations

from typing import Annotated

import typer

from engines.native_environment import set_native_defaults
from streams.cli.command_line import command, load_settings
from streams.interrupts import ending_at_once


@command(
    "inferstream worker",
    "inferstream worker --task asr --config production.yaml",
    "inferstream worker --set kafka.group_id=team-a --set worker.max_in_flight=99",
)
def worker(
    ctx: typer.Context,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="Consume only this task; repeatable. Default: worker.tasks, or all."),
    ] = None,
) -> None:
    """Consume requests, run models, publish results, until SIGTERM or Ctrl-C; then drain and exit.

    Exit status: 0 drained, 1 failed (unanswered requests stay on the broker), 2 settings not usable.
    """
    with ending_at_once(ctx.call_on_close):
        settings = load_settings(ctx, {"worker.tasks": task}, logs=True).settings
        set_native_defaults()
        from streams.plugins import import_plugins
        from streams.worker.worker import run

        import_plugins(settings.worker.plugins)
    raise typer.Exit(run(settings))
