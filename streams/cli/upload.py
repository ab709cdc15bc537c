"""`inferstream upload`: uploads files and prints their s3:// addresses for requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.command_line import command, load_settings

if TYPE_CHECKING:
    from streams.settings import S3Settings


@command(
    "inferstream upload call.flac",
    "inferstream upload call.flac --to s3://media/calls/",
    'inferstream send asr whisper-base "$(inferstream upload call.flac)"',
)
def upload(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Files of this machine.")],
    to: Annotated[
        str | None,
        typer.Option(help="Where to: s3://bucket/key, or a folder that ends in /. Default: under s3.uploads."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print {file, address} as JSON, one a line.")] = False,
) -> None:
    """Put files on the object store and print the address of each; the same file again has the same address."""
    settings = load_settings(ctx).settings.s3
    if to is not None and len(files) > 1 and not to.endswith("/"):
        raise typer.BadParameter("several files need a folder; end it in /", param_hint="--to")
    for file in files:
        address = upload_with_bar(file, settings, to=to)
        typer.echo(json.dumps({"file": str(file), "address": address}) if as_json else address)


def upload_with_bar(file: Path, settings: S3Settings, *, to: str | None = None) -> str:
    """Upload `file`, with a progress bar on standard error where that takes long, and return its address."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from streams.media.uploads import upload as put

    if not file.is_file():
        what = "a folder; name its files" if file.is_dir() else "not a file of this machine"
        raise typer.BadParameter(f"{file} is {what}", param_hint="FILE")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(file.name, total=file.stat().st_size)
        return put(file, settings, to=to, on_bytes=lambda count: bar.advance(task, count))
