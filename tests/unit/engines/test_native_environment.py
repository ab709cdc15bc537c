"""Settings of native libraries: set where nobody did, and before the libraries read them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engines.native_environment import set_native_defaults

RUN_IN_PLACE_OF_A_WORKER = """
import sys, types
from streams.cli import app

def run(settings, **_):
    assert "numpy" not in sys.modules and "torch" not in sys.modules, "imported before they were set up"
    import numpy, threadpoolctl
    print([pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"])
    return 0

for name in ("streams.worker", "streams.http.serving"):
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
def test_a_process_that_runs_models_gives_numpy_one_thread(command: str, tmp_path: Path) -> None:
    code = RUN_IN_PLACE_OF_A_WORKER.format(command=command)
    shown = subprocess.run(
        [sys.executable, "-c", code], env={}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (shown.stdout.strip(), shown.stderr) == ("[1]", "")
