"""`inferstream topics`: create the topics, or check them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from streams import interrupts
from streams.cli import examples, load_settings

if TYPE_CHECKING:
    from streams.settings import WorkerSettings

app = typer.Typer(add_completion=False, rich_markup_mode="rich", no_args_is_help=True)

Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="Only the topics of this task; repeatable. Default: worker.tasks, or all.",
    ),
]


@app.callback()
def topics() -> None:
    """Create the topics, or check that they are as the settings say."""


@app.command(
    epilog=examples("inferstream topics create", "inferstream topics create --set kafka.partitions=16")
)
def create(ctx: typer.Context, task: Tasks = None) -> None:
    """Create missing topics and add partitions where there are too few."""
    from rich.console import Console

    from streams.kafka.topic_admin import create_topics

    settings = load_settings(ctx).settings
    tasks = _tasks(settings.worker, task)
    touched = interrupts.run(create_topics(settings.kafka, tasks))
    console = Console()
    for name in touched:
        console.print(f"[green]✓[/green] {name} ({settings.kafka.partitions} partitions)")
    if not touched:
        console.print("[green]✓[/green] all topics are there already")


@app.command(epilog=examples("inferstream topics check", "inferstream topics check --task asr"))
def check(ctx: typer.Context, task: Tasks = None) -> None:
    """Check every topic; exit with 1 and say what to do where one is missing or has the wrong shape."""
    from rich.console import Console

    from streams.kafka.topic_admin import check_topics, specs

    settings = load_settings(ctx).settings
    tasks = _tasks(settings.worker, task)
    problems = interrupts.run(check_topics(settings.kafka, tasks))
    wrong = {problem.topic: problem for problem in problems}
    console = Console(soft_wrap=True)
    for name in specs(settings.kafka, tasks):
        console.print(
            f"[red]✗[/red] {wrong[name]}" if name in wrong else f"[green]✓[/green] {name}", highlight=False
        )
    raise typer.Exit(1 if problems else 0)


def _tasks(worker: WorkerSettings, given: list[str] | None) -> list[str]:
    from streams.plugins import tasks_of

    return tasks_of(worker.model_copy(update={"tasks": tuple(given)}) if given else worker)
