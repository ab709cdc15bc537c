"""A guarded process dies with its parent, and takes its children along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.local.process import GuardedProcess
from tests.processes import all_gone, family, is_running, wait_until

# A server that forks: it and its child say that they are there and wait.
_FORKING_SERVER = "import os, time; os.fork(); print('up', flush=True); time.sleep(600)"
_FORKING_PARENT = """
import os, sys, time
from pathlib import Path
from deploy.local.process import GuardedProcess
server = GuardedProcess([sys.executable, "-c", sys.argv[2]], env=dict(os.environ), directory=Path(sys.argv[1]),
                        log_path=Path(sys.argv[1], "log"))
if os.fork():
    print(server.pid, flush=True)
time.sleep(600)
"""


@contextmanager
def _guarded(directory: Path, *argv: str) -> Iterator[GuardedProcess]:
    process = GuardedProcess(argv, env=dict(os.environ), directory=directory, log_path=directory / "log")
    try:
        yield process
    finally:
        process.kill()


def _lines(directory: Path) -> int:
    return len((directory / "log").read_text().splitlines())


def test_kill_takes_the_children_of_the_program_along(tmp_path: Path) -> None:
    with _guarded(tmp_path, sys.executable, "-c", _FORKING_SERVER) as process:
        assert wait_until(lambda: _lines(tmp_path) == 2)
        pids = family(process.pid)
        assert len(pids) == 2
        process.kill()
        assert all_gone(pids)
        assert process.poll() == 128 + signal.SIGKILL


def test_the_program_runs_in_its_folder_with_its_output_in_the_log_and_no_input(tmp_path: Path) -> None:
    script = "import os, sys; print(os.getcwd(), repr(sys.stdin.read())); print('oops', file=sys.stderr)"
    with _guarded(tmp_path, sys.executable, "-u", "-c", script) as process:
        assert wait_until(lambda: process.poll() is not None)
        assert process.poll() == 0
    assert (tmp_path / "log").read_text() == f"{tmp_path} ''\noops\n"


def test_the_exit_status_of_the_program_is_told_and_its_orphans_are_killed(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\nchild = os.fork()\nprint(child, flush=True) if child else time.sleep(600)\nsys.exit(7)"
    )
    with _guarded(tmp_path, sys.executable, "-c", script) as process:
        assert wait_until(lambda: process.poll() is not None)
        assert process.poll() == 7
        assert all_gone([int((tmp_path / "log").read_text())])


def test_a_program_that_cannot_be_started_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="/no/such/program could not be started"):
        GuardedProcess(["/no/such/program"], env={}, directory=tmp_path, log_path=tmp_path / "log")
    assert "No such file" in (tmp_path / "log").read_text()


def test_a_held_file_stays_open_in_the_guard_but_not_in_the_program(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    script = "import os, sys, time; print(sorted(os.listdir('/proc/self/fd')), flush=True); time.sleep(600)"
    process = GuardedProcess(
        [sys.executable, "-c", script],
        env=dict(os.environ),
        directory=tmp_path,
        log_path=tmp_path / "log",
        held_fd=writer,
    )
    try:
        os.close(writer)
        assert wait_until(lambda: _lines(tmp_path) == 1)
        assert str(writer) not in (tmp_path / "log").read_text()
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):  # no end of file: the guard has the other end
            os.read(reader, 1)
    finally:
        process.kill()
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_guard_ends_the_program_too(tmp_path: Path, number: signal.Signals) -> None:
    with _guarded(tmp_path, sys.executable, "-c", _FORKING_SERVER) as process:
        assert wait_until(lambda: _lines(tmp_path) == 2)
        pids = family(process.pid)
        os.kill(_guard_of(process.pid), number)
        assert all_gone(pids)


def test_the_program_dies_with_a_parent_killed_by_force_even_if_a_fork_of_it_lives_on(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _FORKING_PARENT, str(tmp_path), _FORKING_SERVER],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[4],
        start_new_session=True,
    )
    assert parent.stdout is not None
    with parent, parent.stdout as said:
        server = int(said.readline())
        assert wait_until(lambda: _lines(tmp_path) == 2)
        pids = family(server)
        fork_of_parent = family(parent.pid) - {parent.pid, _guard_of(server), *pids}
        parent.kill()
    try:
        assert all_gone(pids)
        assert any(is_running(pid) for pid in fork_of_parent)
    finally:
        for pid in fork_of_parent:
            os.kill(pid, signal.SIGKILL)


def _guard_of(pid: int) -> int:
    import psutil

    return psutil.Process(pid).ppid()
