"""The watch of the event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from streams.loop_watch import watched_loop

PATIENCE_S = 60.0


@pytest.mark.logs_errors("event_loop_stuck")
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


_FROZEN = """
import asyncio
from streams import loop_watch
loop_watch._NO_THREAD_RUNS_S = 0.5

async def main():
    with loop_watch.watched_loop(0.5):
        await asyncio.sleep(1)  # it turns
        print("works", flush=True)
        sum(range(10**15))  # in C, which lets no thread run and heeds no signal

asyncio.run(main())
"""


@pytest.mark.processes
def test_so_does_one_that_no_thread_can_watch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FROZEN], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout) == (1, "works\n")
    assert "Timeout" in done.stderr
    assert "in main" in done.stderr
