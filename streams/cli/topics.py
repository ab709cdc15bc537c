"""`inferstream topics`: create the topics, or check them."""

from __future__ import annotations

from typing import Annotated

import typer

from handlers.errors import counted
from streams import interrupts
from streams.cli.command_line import AsJson, examples, load_settings, print_json
from streams.kafka.topics import Topics
from streams.plugins import tasks_of
from streams.settings import KafkaSettings

app = typer.Typer(add_completion=False, rich_markup_mode="rich", no_args_is_help=True)

Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task", metavar="TASK", help="Only the topics of this task; repeatable. Default: worker.tasks, or all."
    ),
]


@app.callback()
def topics() -> None:
    """Create the topics, or check that they are as the settings say."""


@app.command(epilog=examples("inferstream topics create", "inferstream topics create --set kafka.partitions=16"))
def create(ctx: typer.Context, task: Tasks = None, as_json: AsJson = False) -> None:
    """Create missing topics and add partitions where there are too few."""
    from streams.kafka.topic_admin import create_topics

    kafka, tasks = _settings(ctx, task)
    touched = interrupts.run(create_topics(kafka, tasks))
    partitions = kafka.partitions
    if as_json:
        names = Topics(kafka.topic_prefix).all_of(tasks)
        rows = [{"topic": name, "changed": name in touched, "partitions": partitions} for name in names]
        print_json({"topics": rows})
        return
    for name in touched:
        _print_line(f"{name} ({counted(partitions, 'partition')})")
    if not touched:
        _print_line("all topics are there already")


@app.command(epilog=examples("inferstream topics check", "inferstream topics check --task asr --json"))
def check(ctx: typer.Context, task: Tasks = None, as_json: AsJson = False) -> None:
    """Check every topic; exit with 1 and say what to do where one is missing or has the wrong shape."""
    from streams.kafka.topic_admin import check_topics

    kafka, tasks = _settings(ctx, task)
    wrong = {one.topic: one for one in interrupts.run(check_topics(kafka, tasks))}
    names = Topics(kafka.topic_prefix).all_of(tasks)
    if as_json:
        rows = [
            {"topic": name, "ok": not one, "problem": one and one.problem, "cure": one and one.cure}
            for name, one in ((name, wrong.get(name)) for name in names)
        ]
        print_json({"topics": rows})
    else:
        for name in names:
            _print_line(str(wrong.get(name, name)), ok=name not in wrong)
    raise typer.Exit(1 if wrong else 0)


def _print_line(text: str, *, ok: bool = True) -> None:
    from rich.console import Console

    mark = "[green]✓[/green]" if ok else "[red]✗[/red]"
    Console(soft_wrap=True).print(f"{mark} {text}", highlight=False)


def _settings(ctx: typer.Context, task: list[str] | None) -> tuple[KafkaSettings, list[str]]:
    settings = load_settings(ctx, {"worker.tasks": task}).settings
    return settings.kafka, tasks_of(settings.worker)
