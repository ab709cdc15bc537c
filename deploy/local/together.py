"""Starts several parts side by side."""

from __future__ import annotations

from collections.abc import Sequence
from queue import SimpleQueue
from threading import Thread

from deploy.local.part import Part


def start_together(parts: Sequence[Part]) -> None:
    """Start `parts`, each in a thread, and return when all are healthy; those already healthy stay as they are.

    Raises:
        StackError: permanent; one did not start, the first to say so. Others may be running or starting: stop
            them.
    """
    outcomes: SimpleQueue[BaseException | None] = SimpleQueue()
    for part in parts:
        # A daemon, because a Ctrl-C may come at any point of starting it: were it to run unseen, the
        # process could not end. It finds the start abandoned and starts nothing.
        Thread(target=_start, args=(part, outcomes), name=f"start-{part.name}", daemon=True).start()
    for _ in parts:
        if (error := outcomes.get()) is not None:
            raise error


def _start(part: Part, outcomes: SimpleQueue[BaseException | None]) -> None:
    try:
        part.start()
    except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for the outcome
        outcomes.put(error)
    else:
        outcomes.put(None)
