"""Log lines in a process of somebody else's: they go to `logging`, short, whatever is set of structlog."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SCRIPT = """
import logging, sys
import structlog
{setup}
import streams.client
from engines import inference_manager
from engines.run.stages import log, stage_failed

def broken():
    secret = "s3cret" * 1000
    raise KeyError("nothing there")

try:
    broken()
except KeyError as error:
    print(stage_failed("preprocess", "broken", error).code)
log.info("model_loaded", model="m/1")
"""


def run(setup: str) -> subprocess.CompletedProcess[str]:
    script = _SCRIPT.format(setup=setup)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)


@pytest.mark.parametrize(
    "setup",
    [
        "",
        "structlog.configure(logger_factory=structlog.PrintLoggerFactory())",
        "structlog.configure(processors=[lambda *_: sys.exit('a processor of the host')])",
    ],
)
@pytest.mark.processes
def test_a_host_without_logging_sees_warnings_in_plain_lines(setup: str) -> None:
    ran = run(setup)
    assert ran.stdout == "INTERNAL_ERROR\n"
    first, *trace = ran.stderr.splitlines()
    assert first == "stage_failed stage=preprocess task=broken"
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1] == "KeyError: 'nothing there'"
    assert len(trace) < 10
    assert "s3cret" * 2 not in ran.stderr


@pytest.mark.processes
def test_the_logging_of_a_host_decides_what_is_logged_and_where() -> None:
    ran = run("logging.basicConfig(stream=sys.stdout, level='INFO', format='%(name)s|%(message)s')")
    assert "engines.run.stages|model_loaded model=m/1" in ran.stdout.splitlines()
    assert ran.stderr == ""
