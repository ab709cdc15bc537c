"""Ctrl-C and SIGTERM while modules are imported, while an event loop is made, while it runs, and not at all."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streams import interrupts
from streams.cli import command_line, main


@pytest.fixture(autouse=True)
def ctrl_c_raises() -> Iterator[None]:
    """As in a terminal, whoever runs the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


async def answer() -> int:
    await asyncio.sleep(0)
    return 42


def test_what_runs_returns() -> None:
    assert interrupts.run(answer()) == 42


def test_a_ctrl_c_while_the_loop_is_made_ends_it_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", complaints.append)
    make = socket.socketpair

    def interrupted(*args: object) -> tuple[socket.socket, socket.socket]:
        os.kill(os.getpid(), signal.SIGINT)
        return make()

    monkeypatch.setattr(socket, "socketpair", interrupted)
    with pytest.raises(KeyboardInterrupt):
        interrupts.run(answer())
    gc.collect()
    assert complaints == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_ctrl_c_while_it_runs_cancels_it() -> None:
    ended: list[str] = []

    async def waits() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("cleanly")

    with pytest.raises(KeyboardInterrupt):
        interrupts.run(waits())
    assert ended == ["cleanly"]


def test_a_signal_that_raises_at_once_lets_it_end_as_well() -> None:
    """As SIGTERM does where a command treats it as a Ctrl-C."""
    ended: list[str] = []

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    async def waits() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            ended.append("cleanly")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupts.run(waits())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == ["cleanly"]


def test_it_runs_in_other_threads_too() -> None:
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(interrupts.run(answer())))
    thread.start()
    thread.join(30)
    assert answers == [42]


@pytest.mark.parametrize("is_swallowed", [False, True])
@pytest.mark.parametrize(
    ("program", "imports"),
    [("streams.cli worker", "typer"), ("streams.cli send", "typer"), ("examples.demo", "rich")],
)
@pytest.mark.processes
def test_a_ctrl_c_while_the_program_is_imported_ends_it_with_130_and_without_a_word(
    tmp_path: Path, program: str, imports: str, is_swallowed: bool
) -> None:
    # Short sleeps: Python does not see a signal that comes just before a sleep until that is over.
    wait = "while True: time.sleep(0.01)"
    if is_swallowed:  # as by a callback of the import system
        wait = f"try:\n    {wait}\nexcept KeyboardInterrupt:\n    pass"
    (tmp_path / f"{imports}.py").write_text(f"import time\nprint('importing', flush=True)\n{wait}\n")
    with importing([*program.split()], tmp_path) as starting:
        starting.send_signal(signal.SIGINT)
        assert starting.wait(60) == 130
        assert starting.stderr is not None
        assert starting.stderr.read() == ""


def test_a_ctrl_c_before_the_command_has_begun_ends_it_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "run", run)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_a_ctrl_c_that_is_ignored_stays_ignored_while_the_program_is_imported() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts.quiet_imports():
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@contextmanager
def importing(arguments: list[str], modules: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a module of this repository, and go on when a module in that folder says that it is imported."""
    with subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env={**os.environ, "PYTHONPATH": str(modules)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as starting:
        try:
            assert starting.stdout is not None
            assert any(line.strip() == "importing" for line in starting.stdout)
            yield starting
        finally:
            starting.kill()


@pytest.mark.parametrize("hangs", ["time.sleep(3600)", "os.system('exec sleep 20')"])  # the second heeds no signal
@pytest.mark.parametrize("command", ["worker", "serve"])
@pytest.mark.processes
def test_a_sigterm_while_a_plugin_is_imported_ends_with_0_for_nothing_has_begun(
    tmp_path: Path, command: str, hangs: str
) -> None:
    (tmp_path / "slow_plugin.py").write_text(f"import os, time\nprint('importing', flush=True)\n{hangs}\n")
    with importing(["streams.cli", "--set", "worker.plugins=slow_plugin", command], tmp_path) as starting:
        starting.terminate()
        assert starting.wait(60) == 0
