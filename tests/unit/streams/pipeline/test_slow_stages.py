"""Which handlers are taken for quick."""

from __future__ import annotations

import importlib
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handlers.base import BaseModelHandler
from streams.pipeline.slow_stages import HeldUp, SlowStageDetector

pytestmark = pytest.mark.waits


class Handler(BaseModelHandler):
    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return data

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return result


class Another(Handler):
    pass


def after(*seconds: float) -> SlowStageDetector:
    now = 0.0

    def takes(took_s: float) -> None:
        nonlocal now
        now += took_s

    pace = SlowStageDetector(clock=lambda: now)
    for took_s in seconds:
        pace.run(Handler, "preprocess", takes, took_s)
    return pace


def test_a_handler_is_quick_until_it_proves_otherwise() -> None:
    assert after().is_quick(Handler, "preprocess")
    assert after(*[0.0001] * 100).is_quick(Handler, "preprocess")


def test_a_long_call_now_and_then_is_no_proof_since_the_machine_may_have_stopped_the_process() -> None:
    assert after(3.0, 0.0001, 3.0, 3.0, 0.0001, 3.0).is_quick(Handler, "preprocess")


def test_three_long_calls_in_a_row_are_proof_against_that_stage_of_that_handler() -> None:
    pace = after(0.0001, 0.1, 0.1, 0.1)
    assert not pace.is_quick(Handler, "preprocess")
    assert pace.is_quick(Handler, "postprocess")
    assert pace.is_quick(Another, "preprocess")


def test_proof_stands_whatever_comes_later() -> None:
    assert not after(0.1, 0.1, 0.1, 0.0001).is_quick(Handler, "preprocess")


def _loops() -> None:
    while True:
        pass


def _matches() -> None:
    re.match(r"(a|aa)+$", "a" * 200 + "b")


def _reads_a_socket() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.recv(1)


def _tries_again_after_every_error() -> None:
    while True:
        try:
            time.sleep(3600)
        except Exception:  # noqa: BLE001 - as clients do that wait for a server
            time.sleep(0.01)


HANGS: dict[str, Callable[[], Any]] = {
    "sleep": lambda: time.sleep(10**6),
    "loop": _loops,
    "socket": _reads_a_socket,
    "lock": lambda: [lock.acquire() for lock in [threading.Lock()] * 2],
    "event": lambda: threading.Event().wait(),
    "queue": lambda: queue.SimpleQueue[int]().get(),
    "child": lambda: subprocess.run([sys.executable, "-c", "import time; time.sleep(10**6)"], check=False),
    "regex": _matches,
    "tries again": _tries_again_after_every_error,
}


@pytest.mark.parametrize("what", HANGS)
def test_what_hangs_is_interrupted_and_belongs_in_threads_from_then_on(what: str) -> None:
    pace = SlowStageDetector()
    with pace.interrupting(3600.0):
        with pytest.raises(HeldUp):
            pace.run(Handler, "preprocess", HANGS[what])
        assert not pace.is_quick(Handler, "preprocess")
        assert pace.run(Another, "preprocess", lambda: 7) == 7


def test_what_a_call_makes_of_its_interrupt_is_not_its_outcome() -> None:
    def fails_as_it_cleans_up() -> None:
        try:
            time.sleep(10**6)
        except BaseException as error:
            time.sleep(0.6)  # no other interrupt comes meanwhile
            raise ValueError("a lock that is not held") from error

    pace = SlowStageDetector()
    with pace.interrupting(3600.0), pytest.raises(HeldUp) as held_up:
        pace.run(Handler, "preprocess", fails_as_it_cleans_up)
    assert isinstance(held_up.value.__cause__, ValueError)
    assert not pace.is_quick(Handler, "preprocess")


def test_an_import_goes_on_for_half_of_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "imported_late.py").write_text("import time\ntime.sleep(2.5)\n")
    (tmp_path / "imported_never.py").write_text("import time\ntime.sleep(10**6)\n")
    pace = SlowStageDetector()
    with pace.interrupting(3600.0):
        pace.run(Handler, "preprocess", importlib.import_module, "imported_late")
    assert "imported_late" in sys.modules
    with pace.interrupting(4.0), pytest.raises(HeldUp):
        pace.run(Handler, "preprocess", importlib.import_module, "imported_never")


def test_nothing_is_interrupted_between_calls_and_signals_are_left_as_they_were() -> None:
    before = signal.getsignal(signal.SIGURG)
    with SlowStageDetector().interrupting(3600.0):
        signal.raise_signal(signal.SIGURG)
    assert signal.getsignal(signal.SIGURG) is before
