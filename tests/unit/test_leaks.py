"""A test that leaves something behind fails; one that expects its errors does not."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

_TESTS = """
import asyncio, logging, threading
import pytest

ENDS = threading.Event()

def test_logs():
    logging.getLogger("some").error("it broke")

@pytest.mark.logs_errors("some: it broke")
def test_logs_what_it_names():
    logging.getLogger("some").error("it broke")

def test_reads_the_log(caplog):
    logging.getLogger("some").error("it broke")

def test_leaves_a_task():
    async def leaves():
        asyncio.get_running_loop().stay = asyncio.create_task(asyncio.sleep(3600))
        await asyncio.sleep(0)
    asyncio.run(leaves())

def test_leaves_a_thread():
    threading.Thread(target=ENDS.wait, name="left over").start()

def test_waits_for_its_thread():
    thread = threading.Thread(target=lambda: None)
    thread.start()

def test_patches():
    ENDS.set()
    import aiokafka.util
    aiokafka.util.create_task = print
"""


@pytest.mark.processes
def test_what_is_left_behind_is_named_and_what_is_expected_is_not(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = logs_errors: as here\n")
    unit = pytester.mkdir("unit")
    (unit / "test_left.py").write_text(_TESTS)
    pytester.makeconftest(
        "import aiokafka.util\n"
        "from pathlib import Path\n"
        "from tests import leaks\n"
        f"leaks._UNIT_TESTS, leaks.PATIENCE_S = Path({str(unit)!r}), 0.2\n"
    )
    done = pytester.runpytest_subprocess("-p", "tests.leaks", "-p", "no:xdist", str(Path("unit")))
    done.assert_outcomes(passed=7, errors=4)
    done.stdout.fnmatch_lines_random(
        [
            "an error in the log: some: it broke",
            "a task: <Task pending*",
            "a thread: <Thread(left over*",
            "aiokafka.util.create_task patched: <built-in function print>",
        ]
    )
