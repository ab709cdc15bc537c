"""Child processes that decode: what comes back, what ends them, and that they end with their parent."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from handlers.decoding.children.processes import ChildEnded, ChildPool, Limits
from handlers.errors import InternalError, InvalidInput

pytestmark = pytest.mark.processes

LIMITS = Limits(processes=2, memory_bytes=512 << 20, timeout_s=60)
SHORT = Limits(processes=2, memory_bytes=512 << 20, timeout_s=0.25)


@pytest.fixture
def pool() -> Iterator[ChildPool]:
    with contextlib.closing(ChildPool()) as pool:
        yield pool


def run(pool: ChildPool, name: str, content: bytes = b"", limits: Limits = LIMITS, **arguments: Any) -> Any:
    function = f"tests.unit.handlers.child_functions:{name}"
    with contextlib.closing(pool.call(function, content, arguments, limits)) as answers:
        return list(answers)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def state_of(stat: Path) -> str:
    """Return the letter of the state that the kernel tells of a process or thread."""
    return stat.read_text(encoding="ascii").rpartition(")")[2].split()[0]


def is_running(pid: int) -> bool:
    """Tell whether there is such a process; a zombie, which nobody has waited for yet, does not run."""
    try:
        return state_of(Path(f"/proc/{pid}/stat")) != "Z"
    except OSError:
        return False


def stop(pid: int) -> None:
    """Freeze all threads of a process."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: {state_of(stat) for stat in Path(f"/proc/{pid}/task").glob("*/stat")} == {"T"})


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_values_and_blocks_of_any_size_come_back_in_order(pool: ChildPool, size: int) -> None:
    content = os.urandom(size)
    answers = run(pool, "echo", content, times=3, word="é")
    assert [bytes(block) for _, block in answers] == [content] * 3
    assert answers[0][0]["word"] == "é"


def test_one_child_serves_call_after_call(pool: ChildPool) -> None:
    pids = {run(pool, "echo")[0][0]["pid"] for _ in range(5)}
    assert len(pids) == 1
    assert pids != {os.getpid()}


def test_calls_run_side_by_side_and_no_more_than_allowed(pool: ChildPool) -> None:
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda _: run(pool, "echo", bytes(100_000), times=20), range(40)))
    assert len({answers[0][0]["pid"] for answers in found}) == 2


@pytest.mark.parametrize(
    ("name", "arguments", "reason", "detail"),
    [
        ("crash", {"by": int(signal.SIGSEGV)}, "crash", "SIGSEGV"),
        ("crash", {"by": int(signal.SIGABRT)}, "memory", "SIGABRT"),
        ("crash", {"by": int(signal.SIGKILL)}, "killed", "SIGKILL"),
        ("leave", {}, "crash", "status 3"),
        ("grow", {}, "memory", "MemoryError"),
        ("starve", {}, "memory", "nothing left"),
    ],
)
def test_a_child_that_ends_takes_one_call_with_it(
    pool: ChildPool, name: str, arguments: dict[str, Any], reason: str, detail: str
) -> None:
    with pytest.raises(ChildEnded) as caught:
        run(pool, name, **arguments)
    assert (caught.value.reason, caught.value.detail) == (reason, detail)
    assert run(pool, "echo", b"next")[0][1] == b"next"


def test_a_call_that_takes_too_long_is_ended_and_its_process_too(pool: ChildPool) -> None:
    pids = []
    function = "tests.unit.handlers.child_functions:hang"
    with pytest.raises(ChildEnded) as caught:
        pids += [value for value, _ in pool.call(function, b"", {}, SHORT)]
        pytest.fail("it came to its end")
    assert caught.value.reason == "time"
    with contextlib.closing(pool.call(function, b"", {}, LIMITS)) as answers:
        pid = next(answers)[0]
        assert is_running(pid)
    wait_until(lambda: not is_running(pid))
    assert run(pool, "echo", b"next")[0][1] == b"next"


def test_the_time_is_work_and_not_waiting(pool: ChildPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.decoding.children.processes._MOST_WAIT", 600)
    assert run(pool, "wait", limits=SHORT, seconds=1.25)[0][0] == "waited"
    with pytest.raises(ChildEnded) as caught:
        run(pool, "toil", limits=SHORT)
    assert (caught.value.reason, caught.value.detail) == ("time", "SIGXCPU")
    assert run(pool, "echo", b"next")[0][1] == b"next"


def test_a_call_that_waits_for_a_child_gets_it_when_one_is_free(pool: ChildPool) -> None:
    one = Limits(processes=1, memory_bytes=512 << 20, timeout_s=60)
    with ThreadPoolExecutor(1) as threads:
        with contextlib.closing(pool.call("tests.unit.handlers.child_functions:hang", b"", {}, one)) as answers:
            next(answers)
            waiting = threads.submit(run, pool, "echo", b"next", one)
            assert not waiting.done()
        assert waiting.result(timeout=60)[0][1] == b"next"


def test_a_refusal_comes_as_it_was_raised_and_costs_no_child(pool: ChildPool) -> None:
    [(before, _)] = run(pool, "echo")
    with pytest.raises(InvalidInput, match=r"^data.x is wrong; make it right$"):
        run(pool, "refuse")
    assert run(pool, "echo")[0][0]["pid"] == before["pid"]


@pytest.mark.parametrize(("name", "kind"), [("fail", "KeyError"), ("leave_by_exit", "SystemExit")])
@pytest.mark.logs_errors("decoder_failed", "handlers.decoding.children.processes:")
def test_a_fault_is_an_internal_error_that_names_its_kind(pool: ChildPool, name: str, kind: str) -> None:
    with pytest.raises(InternalError, match=f"an unexpected {kind}"):
        run(pool, name)


def test_what_decoders_print_and_log_goes_nowhere(pool: ChildPool, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(pool, "chatter", b"x") == [("said", b"x")]
    pool.close()
    assert capfd.readouterr() == ("", "")


def test_a_child_that_keeps_much_memory_is_replaced(pool: ChildPool) -> None:
    [(pid, _)] = run(pool, "keep", size=300 << 20)
    assert run(pool, "echo")[0][0]["pid"] != pid
    assert not is_running(pid)


def test_what_a_call_may_take_does_not_depend_on_those_before(pool: ChildPool) -> None:
    """Neither on what they have kept, nor on what they have given back, nor on what they imported."""
    allowed, more = LIMITS.memory_bytes - (8 << 20), LIMITS.memory_bytes + (64 << 20)
    pids = [run(pool, "take", size=allowed)[0][0]]
    pids += [run(pool, "keep", os.urandom(40 << 20), size=size << 20)[0][0] for size in (50, 20, 50)]
    pids += [run(pool, "take", os.urandom(40 << 20), size=allowed)[0][0] for _ in range(2)]
    assert len(set(pids)) == 1
    with pytest.raises(ChildEnded, match="memory"):
        run(pool, "take", size=more)


@contextlib.contextmanager
def sent_to_a_stopped_child(pool: ChildPool, name: str, content: bytes, **arguments: Any) -> Iterator[Any]:
    """Make a call while the idle child stands still; yield its pid and the future of the answers."""
    [(value, _)] = run(pool, "echo")
    pid = value["pid"]
    stop(pid)
    with ThreadPoolExecutor(1) as threads:
        answers = threads.submit(run, pool, name, content, **arguments)
        pipe = os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
        try:
            wait_until(lambda: any(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))))
        finally:
            os.close(pipe)
        yield pid, answers


@pytest.mark.parametrize("size", [4, 5_000_000])
def test_a_call_whose_child_ends_before_it_begins_runs_in_a_new_one(pool: ChildPool, size: int) -> None:
    content = os.urandom(size)
    with sent_to_a_stopped_child(pool, "echo", content) as (pid, answers):
        os.kill(pid, signal.SIGKILL)
        [(value, block)] = answers.result(timeout=60)
    assert block == content
    assert value["pid"] != pid


def test_a_call_that_began_is_not_run_again_when_its_child_ends(pool: ChildPool, tmp_path: Path) -> None:
    run(pool, "echo")
    ran = tmp_path / "ran"
    with pytest.raises(ChildEnded, match="killed"):
        run(pool, "crash", by=int(signal.SIGKILL), note=str(ran))
    assert ran.read_text(encoding="ascii") == "ran\n"
    assert run(pool, "echo", b"next")[0][1] == b"next"


def test_a_new_child_that_cannot_begin_fails_the_call(pool: ChildPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ChildEnded, match="crash: status 1"):
        run(pool, "echo")


def test_an_idle_child_that_is_killed_is_replaced(pool: ChildPool) -> None:
    [(value, _)] = run(pool, "echo")
    os.kill(value["pid"], signal.SIGKILL)
    wait_until(lambda: not is_running(value["pid"]))
    assert run(pool, "echo", b"next")[0][1] == b"next"


def test_children_pass_over_signals_that_are_meant_for_their_parent(pool: ChildPool) -> None:
    [(value, _)] = run(pool, "echo")
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(value["pid"], number)
    assert run(pool, "echo")[0][0]["pid"] == value["pid"]


def test_a_forked_process_has_children_of_its_own(pool: ChildPool) -> None:
    [(before, _)] = run(pool, "echo")
    reading, writing = os.pipe()
    forked = os.fork()
    if not forked:
        [(value, _)] = run(pool, "echo")
        os.write(writing, str(value["pid"]).encode())
        pool.close()
        os._exit(0)
    os.close(writing)
    assert os.waitpid(forked, 0)[1] == 0
    with os.fdopen(reading, "rb") as pipe:
        assert int(pipe.read()) != before["pid"]
    assert run(pool, "echo")[0][0]["pid"] == before["pid"]


SCRIPT = """
import os, sys, threading, time
from handlers.decoding.children.processes import Limits, documents as pool

function = "tests.unit.handlers.child_functions:" + sys.argv[1]

def work():
    for value, _ in pool.call(function, b"", {}, Limits(1, 512 << 20, 600)):
        print(value if isinstance(value, int) else value["pid"], flush=True)

thread = threading.Thread(target=work)
thread.start()
if sys.argv[1] == "echo":
    thread.join()
if "fork" in sys.argv and not os.fork():
    time.sleep(600)
if "stay" in sys.argv:
    thread.join(); time.sleep(600)
"""


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], int]]]:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT, encoding="utf-8")
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[bytes], int]:
        process = subprocess.Popen(
            [sys.executable, path, *arguments], stdout=subprocess.PIPE, start_new_session=True, cwd=tmp_path
        )
        started.append(process)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the one that it forked, too
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


Script = Callable[..., tuple[subprocess.Popen[bytes], int]]


def test_children_end_with_a_script_that_ends(script: Script) -> None:
    process, child = script("echo")
    assert process.wait(timeout=60) == 0
    assert not is_running(child)


@pytest.mark.parametrize("arguments", [("echo", "stay"), ("hang", "stay"), ("echo", "fork", "stay")])
def test_children_end_with_a_parent_that_is_killed(script: Script, arguments: tuple[str, ...]) -> None:
    process, child = script(*arguments)
    assert is_running(child)
    process.kill()
    process.wait()
    wait_until(lambda: not is_running(child))


def test_a_thread_that_ends_leaves_its_child_to_the_next(pool: ChildPool) -> None:
    pids = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: pids.append(run(pool, "echo")[0][0]["pid"]))
        thread.start()
        thread.join()
    assert len(set(pids)) == 1
