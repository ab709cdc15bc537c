"""How a worker stops where a step of its stop fails: the other steps are done, and it ends at once with status 1."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PATIENCE_S = 60.0

pytestmark = pytest.mark.processes

PROCESS = """
import asyncio, sys, threading
from aiokafka.errors import OffsetMetadataTooLargeError
from streams.logs import configure_logging
from streams.settings import LoggingSettings, Settings
from streams.worker.worker import Worker, run

configure_logging(LoggingSettings(), sys.stdout)

class App:
    # Has a thread that outlives the event loop, as Faust has one for its consumer, until it is stopped.
    def __init__(self):
        self.is_stopped = threading.Event()
        threading.Thread(target=self.is_stopped.wait, name="consumer").start()

    async def drain(self):
        {drain}

    async def stop(self):
        self.is_stopped.set()

class Committer:
    async def commit_all(self):
        {commit}

class Stream:
    committer = Committer()

    async def withdraw(self):
        print("withdrawn", flush=True)

class Gateway:
    async def drain(self, timeout_s):
        for _ in range(10):
            await asyncio.sleep(0)
        print("http drained", flush=True)

async def start(self, stack):
    global stopping
    stopping = self._stopping
    self.app, self._stream, self.gateway = App(), Stream(), Gateway()
    self._delivering = asyncio.create_task(asyncio.sleep(3600))
    print("ready", flush=True)
    {start}

Worker.in_flight = 1
Worker.start = start
status = run(Settings.model_validate({{"worker": {{"drain_timeout_s": 3600}}}}))
print("status", status, flush=True)
sys.exit(status)
"""

REFUSED = "raise OffsetMetadataTooLargeError('refused')"
FAULT = "asyncio.get_running_loop().call_soon(stopping.fail, OSError('no broker takes it'))"


@pytest.mark.parametrize(
    ("drain", "commit", "error", "is_http_drained"),
    [
        pytest.param(REFUSED, "pass", "refused", True, id="a commit is refused while requests are answered"),
        pytest.param("pass", REFUSED, "refused", True, id="the last commit is refused"),
        pytest.param("raise asyncio.CancelledError", "pass", "CancelledError", True, id="a stray cancellation"),
        pytest.param(
            f"{FAULT}; await asyncio.sleep(3600)",
            "pass",
            "no broker takes it",
            False,
            id="an outcome cannot be published, so its request stays in flight",
        ),
        pytest.param(FAULT, "pass", "no broker takes it", False, id="Faust crashes, and waits for nothing then"),
    ],
)
def test_a_stop_of_which_a_step_fails_goes_on_at_once(
    drain: str, commit: str, error: str, is_http_drained: bool
) -> None:
    code = PROCESS.format(drain=drain, commit=commit, start="pass")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline().strip() == "ready"
            worker.send_signal(signal.SIGTERM)
            written, _ = worker.communicate(timeout=PATIENCE_S)
        finally:
            worker.kill()
    assert worker.returncode == 1, written
    assert "status 1" in written  # it was not cut off
    assert "worker_failed" in written
    assert error in written
    assert ("http drained" in written) >= is_http_drained


def test_a_worker_that_delivery_ends_leaves_no_note_that_a_request_ended_it() -> None:
    refused = "ExceptionGroup('delivery', [OffsetMetadataTooLargeError('refused')])"
    code = PROCESS.format(drain="pass", commit="pass", start=f"stopping.fail({refused})")
    worker = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert worker.returncode == 1
    assert "withdrawn" in worker.stdout
