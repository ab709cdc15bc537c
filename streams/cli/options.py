"""`inferstream options`: what a request may carry in `options`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from engines.registry import EngineRegistry
from handlers import model_registry
from handlers.errors import UnknownTask
from handlers.options.options import COLUMNS, OPTIONS, OptionSpec, cells, options_of, options_page
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
    takes: Mapping[str, OptionSpec] | None = OPTIONS if task is None else options_of(task)
    if engine is not None or not takes:
        import_plugins(load_settings(ctx).settings.worker.plugins)
    if engine is not None and engine not in (names := EngineRegistry().names()):
        raise typer.BadParameter(f"{engine!r} is none of {', '.join(names)}", param_hint="--engine")
    if task is not None and not takes:
        try:
            takes = model_registry.get(task).options
        except UnknownTask as error:
            raise typer.BadParameter(error.message, param_hint="TASK") from None
    if as_json:
        if task is None:
            raise typer.BadParameter("the schema is that of one task; name it", param_hint="TASK")
        title, others_pass = f"options of {task}", takes is None
        print_json(schema_of(OPTIONS if takes is None else takes, engine, title=title, others_pass=others_pass))
    elif takes is None:
        typer.echo(f"the handler of task {task} declares no options: it gets any, unchecked but for these")
        _print_table(OPTIONS, None, engine)
    else:
        _print_table(takes, task, engine)


def _print_table(takes: Mapping[str, OptionSpec], task: str | None, engine: str | None) -> None:
    from streams.cli.tables import show

    hidden = set() if task is None else {"tasks"}
    rows = []
    for spec in takes.values():
        if engine is not None and spec.engines and engine not in spec.engines:
            continue
        names = [spec.name, *(f"({engine}: {name})" for engine, name in spec.engine_names.items())]
        row = zip(COLUMNS, ("\n".join(names), *cells(spec)), strict=True)
        rows.append([cell for heading, cell in row if heading not in hidden])
    show([heading for heading in COLUMNS if heading not in hidden], rows)
