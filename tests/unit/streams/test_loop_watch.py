"""The watch of the event loop."""

from __future__ import annotations

import asyncio
import threading

from streams.loop_watch import watched_loop

PATIENCE_S = 60.0


async def test_a_loop_that_does_not_turn_ends_the_process() -> None:
    ended = threading.Event()
    with watched_loop(0.05, end=lambda status: ended.set()):
        assert ended.wait(PATIENCE_S)  # which holds up the loop, as a handler would that never returns


async def test_a_loop_that_turns_goes_on_and_nothing_is_left_behind() -> None:
    ended: list[int] = []
    before = set(threading.enumerate())
    with watched_loop(60.0, end=ended.append):
        [watch] = set(threading.enumerate()) - before
        for _ in range(10):
            await asyncio.sleep(0)
    await asyncio.to_thread(watch.join, PATIENCE_S)
    assert not watch.is_alive()
    assert ended == []
