"""How a process stops: each case is a small process of its own, that says when it is ready and is sent signals."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from streams.shutdown import Stopping

PATIENCE_S = 60.0

pytestmark = pytest.mark.processes

PROCESS = """
import asyncio, sys, threading, time
from streams.logs import configure_logging
from streams.settings import LoggingSettings
from streams.shutdown import Stopping

configure_logging(LoggingSettings(), sys.stdout)

def hangs(*_):
    print("hangs", flush=True)
    while True:
        time.sleep(0.01)

async def main():
    with Stopping({drain_timeout_s}) as stopping:
        print("ready", flush=True)
        {body}
    print("closed", flush=True)

asyncio.run(main())
"""


@contextmanager
def process(body: str, *, drain_timeout_s: float = 600.0) -> Iterator[subprocess.Popen[str]]:
    """A process that does `body`, and has said that it is ready; killed where it outlives the block."""
    code = PROCESS.format(body=body, drain_timeout_s=drain_timeout_s)
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        said(started, "ready")
        yield started
    finally:
        started.kill()
        started.communicate()


def said(started: subprocess.Popen[str], word: str) -> None:
    assert started.stdout is not None
    assert started.stdout.readline().strip() == word


def ended(started: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the status and what else was written, of a process that has to end by itself."""
    written, _ = started.communicate(timeout=PATIENCE_S)
    return started.returncode, written


def test_a_signal_is_a_request_that_can_be_waited_for() -> None:
    with process("assert await stopping.requested() is None") as one:
        one.send_signal(signal.SIGTERM)
        status, written = ended(one)
    assert (status, written.splitlines()[-1]) == (0, "closed")
    assert "stopping" in written


def test_work_is_broken_off_at_a_signal() -> None:
    with process("await stopping.until_requested(asyncio.sleep(3600))") as one:
        one.send_signal(signal.SIGINT)
        status, written = ended(one)
    assert (status, written.splitlines()[-1]) == (0, "closed")


_STUCK = "threading.Thread(target=hangs, name='stuck').start(); await stopping.requested(); "


@pytest.mark.parametrize(
    ("body", "drain_timeout_s", "signals", "status", "event"),
    [
        pytest.param("hangs()", 0.2, 1, 1, "drain_timed_out", id="a loop that hangs"),
        pytest.param(
            "import streams.shutdown; streams.shutdown._START_S = 0.2; hangs()",
            600.0,
            1,
            1,
            "drain_timed_out",
            id="a start that hangs has nothing to drain",
        ),
        pytest.param("hangs()", 600.0, 2, 130, "killed_by_second_signal", id="a second signal"),
        pytest.param(f"{_STUCK} stopping.settle()", 600.0, 1, 0, "closing_timed_out", id="nothing is left to lose"),
        pytest.param("stopping.settle(); hangs()", 600.0, 0, 0, "closing_timed_out", id="a loop that hangs in closing"),
        pytest.param(f"{_STUCK} stopping.closed()", 600.0, 1, 0, "threads_left_behind", id="all is closed"),
    ],
)
def test_what_hangs_ends_in_time_with_a_status_and_a_line(
    body: str, drain_timeout_s: float, signals: int, status: int, event: str
) -> None:
    with process(body, drain_timeout_s=drain_timeout_s) as one:
        said(one, "hangs")
        for number in (signal.SIGTERM, signal.SIGINT)[:signals]:  # two of a kind may arrive as one
            one.send_signal(number)
        ended_with, written = ended(one)
    assert ended_with == status
    assert event in written
    assert ("stuck" in written) is ("stuck" in body)


def test_an_error_that_nobody_has_told_is_told_where_closing_takes_too_long() -> None:
    with process("stopping.settle(1, OSError('no broker answers')); hangs()") as one:
        status, written = ended(one)
    assert status == 1
    assert "closing_timed_out" in written
    assert "no broker answers" in written


def test_a_courtesy_that_hangs_is_left_behind() -> None:
    body = "await stopping.requested(); await stopping.courtesy(asyncio.sleep(3600), share=0.01)"
    with process(body) as one:
        one.send_signal(signal.SIGTERM)
        status, written = ended(one)
    assert (status, written.splitlines()[-1]) == (0, "closed")


async def test_the_first_failure_counts_and_signals_are_left_as_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stopping(600) as stopping:
        assert stopping.remaining_s == float("inf")
        first = OSError("first")
        stopping.fail(first)
        stopping.fail(OSError("second"))
        async with asyncio.timeout(PATIENCE_S):
            assert await stopping.requested() is first
        assert stopping.remaining_s <= 600
        stopping._limits.put(None)  # this process goes on
    assert signal.getsignal(signal.SIGTERM) is before


async def test_what_is_raised_by_work_is_raised() -> None:
    async def fails() -> None:
        raise OSError("no")

    with Stopping(600) as stopping, pytest.raises(OSError, match="no"):
        await stopping.until_requested(fails())
