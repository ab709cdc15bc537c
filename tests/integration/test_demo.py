"""`make demo` as a newcomer runs it: in a process of its own, to its end, and interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from handlers import model_registry
from tests.processes import living_in, wait_until

ROOT = Path(__file__).parents[2]
PATIENCE_S = 600.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo runs and keeps its data, for all tests: a later start finds that of an earlier one."""
    return tmp_path_factory.mktemp("demo")


def started(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "examples.demo"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_every_request_is_answered_and_nothing_is_left_behind(folder: Path) -> None:
    demo = started(folder)
    output, _ = demo.communicate(timeout=PATIENCE_S)
    lines = output.rstrip().splitlines()
    assert demo.returncode == 0, output
    assert lines[-1] == "demo: 36 of 36 answered, 4 of 4 refused cleanly, 0 lost"
    assert max(map(len, lines)) <= 100
    table = "\n".join(lines[next(number for number, line in enumerate(lines) if "answers" in line) :])
    assert all(f"{task} · transformers · " in table for task in model_registry.tasks())
    assert "text-generation · ollama · " in table
    assert wait_until(lambda: not living_in(folder))
    assert not (folder / ".local" / "inferstream.yaml").exists()


@pytest.mark.parametrize("point", ["mlflow: starting", "worker: starting", "─ requests ─"])
def test_ctrl_c_leaves_nothing_behind(folder: Path, point: str) -> None:
    demo = started(folder)
    assert demo.stdout is not None
    seen = ""
    for line in demo.stdout:
        seen += line
        if point in line:
            break
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 130, seen + rest
    assert "Traceback" not in rest
    assert wait_until(lambda: not living_in(folder))
    assert not (folder / ".local" / "inferstream.yaml").exists()
