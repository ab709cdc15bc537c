"""Shows the preparation of models as progress bars in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from deploy.models.preparation import Progress as Report
from deploy.models.preparation import Step


@contextmanager
def progress_bars(console: Console | None = None) -> Iterator[Report]:
    """Give a callback for `prepare(progress=...)` that draws one bar per model until the block ends."""
    columns = (
        TextColumn("{task.fields[model]:<22}"),
        BarColumn(bar_width=20),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        rows: dict[str, TaskID] = {}

        def report(step: Step) -> None:
            if step.model not in rows:
                rows[step.model] = bars.add_task(step.what, total=1.0, model=step.model)
            bars.update(rows[step.model], description=step.what, completed=step.fraction)

        yield report
