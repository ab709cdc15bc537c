"""`inferstream serve`: answer inference requests over HTTP, without a broker."""

from __future__ import annotations

from typing import Annotated

import typer

from engines.native_environment import set_native_defaults
from streams.cli.command_line import HTTP_EXAMPLE, command, load_settings
from streams.interrupts import ending_at_once


@command(
    "inferstream serve",
    "inferstream serve --host 0.0.0.0 --port 80 --config production.yaml",
    "inferstream serve --port 0 --set worker.warm=smollm2-135m-instruct",
    "curl localhost:8080/inference/tasks",
)
def serve(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: http.host.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one. Default: http.port.")
    ] = None,
) -> None:
    """Answer inference requests over HTTP until SIGTERM or Ctrl-C; then drain and exit. Needs no broker.

    Exit status: 0 drained, 1 failed, 2 settings not usable.
    """
    with ending_at_once(ctx.call_on_close):
        settings = load_settings(ctx, {"http.host": host, "http.port": port}, logs=True).settings
        set_native_defaults()
        from streams.http.serving import run
        from streams.plugins import import_plugins

        import_plugins(settings.worker.plugins)
    raise typer.Exit(run(settings, on_listening=_show))


def _show(url: str) -> None:
    typer.echo(f"Listening on {url}; Ctrl-C stops it. In another terminal:")
    typer.echo(f"  curl {url}/inference/tasks")
    typer.echo(f"  curl {url}/inference/infer -d {HTTP_EXAMPLE}")
