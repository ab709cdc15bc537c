"""`inferstream options`: what a request may carry in `options`."""

from __future__ import annotations

from typing import Annotated

import typer

from engines.registry import EngineRegistry
from handlers.options.options import COLUMNS, OPTIONS, cells, options_of, options_page
from handlers.options.spec import schema_of
from streams.cli.command_line import command, load_settings, print_json
from streams.plugins import import_plugins


@command(
    "inferstream options",
    "inferstream options asr",
    "inferstream options text-generation --engine ollama --json",
    "inferstream options --markdown > docs/options.md",
)
def options(
    ctx: typer.Context,
    task: Annotated[str | None, typer.Argument(help="Only the options of this task.")] = None,
    engine: Annotated[str | None, typer.Option(help="Only the options of this engine.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON Schema of TASK's options.")] = False,
    markdown: Annotated[bool, typer.Option(help="Print the page of all options in Markdown.")] = False,
) -> None:
    """Show the options of a request: their values, the tasks and engines that take them."""
    if markdown:
        typer.echo(options_page(), nl=False)
        return
    if engine is not None:
        import_plugins(load_settings(ctx).settings.worker.plugins)
        if engine not in (names := EngineRegistry().names()):
            raise typer.BadParameter(f"{engine!r} is none of {', '.join(names)}", param_hint="--engine")
    if task is not None and not options_of(task):
        tasks = sorted({name for spec in OPTIONS.values() for name in spec.tasks})
        raise typer.BadParameter(f"{task!r} is none of {', '.join(tasks)}", param_hint="TASK")
    if as_json:
        if task is None:
            raise typer.BadParameter("the schema is that of one task; name it", param_hint="TASK")
        print_json(schema_of(options_of(task), engine, title=f"options of {task}"))
        return
    _print_table(task, engine)


def _print_table(task: str | None, engine: str | None) -> None:
    from streams.cli.tables import show

    hidden = set() if task is None else {"tasks"}
    rows = []
    for spec in (OPTIONS if task is None else options_of(task)).values():
        if engine is not None and spec.engines and engine not in spec.engines:
            continue
        names = [spec.name, *(f"({engine}: {name})" for engine, name in spec.engine_names.items())]
        row = zip(COLUMNS, ("\n".join(names), *cells(spec)), strict=True)
        rows.append([cell for heading, cell in row if heading not in hidden])
    show([heading for heading in COLUMNS if heading not in hidden], rows)
