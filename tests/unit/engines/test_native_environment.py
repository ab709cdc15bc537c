"""Settings of native libraries: set where nobody did, and before the libraries read them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engines import native_environment
from engines.native_environment import set_native_defaults

RUN_IN_PLACE_OF_A_WORKER = """
import sys, types
from streams.cli.command_line import app

def run(settings, **_):
    assert "numpy" not in sys.modules and "torch" not in sys.modules, "imported before they were set up"
    import numpy, threadpoolctl
    print([pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"])
    return 0

for name in ("streams.worker.worker", "streams.http.serving"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].run = run
app(["{command}"])
"""


def test_what_somebody_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    set_native_defaults()
    assert (os.environ["OPENBLAS_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("7", "PASSIVE")


@pytest.mark.parametrize("command", ["worker", "serve"])
@pytest.mark.processes
@pytest.mark.logs_errors("model_swap_failed")
def test_a_process_that_runs_models_gives_numpy_one_thread(command: str, tmp_path: Path) -> None:
    code = RUN_IN_PLACE_OF_A_WORKER.format(command=command)
    shown = subprocess.run(
        [sys.executable, "-c", code], env={}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (shown.stdout.strip(), shown.stderr) == ("[1]", "")


ARENAS, MMAP, TRIM = -8, -3, -1


@pytest.mark.parametrize(
    ("environment", "is_set"),
    [
        ({}, [ARENAS, MMAP, TRIM]),
        ({"MALLOC_ARENA_MAX": "8"}, [MMAP, TRIM]),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=8"}, [MMAP, TRIM]),
        ({"MALLOC_TRIM_THRESHOLD_": "1"}, [ARENAS, MMAP]),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536"}, [ARENAS, TRIM]),
    ],
)
def test_the_heap_is_bound_unless_the_environment_says_how(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], is_set: list[int]
) -> None:
    for name in ("MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asked: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, option: int, value: int) -> int:
            asked.append((option, value))
            return 1

    monkeypatch.setattr(native_environment, "c_library", Library)
    native_environment.bound_heap()
    values = {ARENAS: max(2, len(os.sched_getaffinity(0))), MMAP: 32 * 1024**2, TRIM: 128 * 1024**2}
    assert asked == [(option, values[option]) for option in is_set]


def test_a_c_library_without_arenas_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    monkeypatch.setattr(native_environment, "c_library", object)
    native_environment.bound_heap()
