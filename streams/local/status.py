"""Shows a local platform in the terminal: one live line per part."""

from __future__ import annotations

from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from deploy.local import PartStatus

_MARKS = {"ready": ("✓", "green"), "failed": ("✗", "red"), "stopped": ("■", "dim")}


class StatusLines:
    """Shows the parts while the block runs; `show` may be called from any thread.

    On a terminal the lines are redrawn in place; elsewhere each change is one line of text.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._statuses: dict[str, PartStatus] = {}
        self._note: RenderableType = ""
        self._live: Live | None = None

    def show(self, status: PartStatus) -> None:
        """Show the new status of one part."""
        self._statuses[status.name] = status
        if not self._console.is_terminal:
            elapsed = f"({status.elapsed_s:.1f} s)" if status.status == "ready" else ""
            self._console.print(" ".join(filter(None, (f"{status.name}: {status.status}", status.address, elapsed))))

    def note(self, text: RenderableType) -> None:
        """Show `text` below the lines."""
        self._note = text
        if not self._console.is_terminal:
            self._console.print(text)

    def pause(self) -> None:
        """Stop drawing, so that other code may draw; `resume` continues."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def resume(self) -> None:
        """Draw again after `pause`."""
        if self._console.is_terminal and self._live is None:
            # A new display: one that was stopped would overwrite what was printed since.
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=8)
            self._live.start()

    def __enter__(self) -> Self:
        self.resume()
        return self

    def __exit__(self, *_: object) -> None:
        self.pause()

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for status in self._statuses.values():
            if status.status == "starting":
                mark: RenderableType = Spinner("dots", style="cyan")
            else:
                mark = Text(*_MARKS[status.status])
            elapsed = f"{status.elapsed_s:.1f} s" if status.status == "ready" else ""
            table.add_row(mark, status.name, status.status, Text(status.address, "cyan"), Text(elapsed, "dim"))
        return Group(table, self._note)
