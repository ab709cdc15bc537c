"""A process that leaves a call behind in native code ends with its own status."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import threading
import torch
from engines.guard import Guard, GivenUp

began = threading.Event()

def load():
    while True:
        torch.ones(400, 400) @ torch.ones(400, 400)
        began.set()

def wait():
    try:
        Guard().call("the load", {limit_s}, load)
    except GivenUp:
        pass

threading.Thread(target=wait, daemon=True).start()
began.wait()
{ending}
"""


@pytest.mark.parametrize("limit_s", [0.1, 600])
@pytest.mark.parametrize(
    ("ending", "status"), [("print('done')", 0), ("raise SystemExit(3)", 3), ("raise KeyError('mine')", 1)]
)
def test_the_status_of_a_process_is_its_own_whatever_it_leaves_behind(
    ending: str, status: int, limit_s: float
) -> None:
    program = PROGRAM.format(ending=ending, limit_s=limit_s)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == status, ended.stderr
    assert "terminate called" not in ended.stderr
    assert ("done" in ended.stdout) == (status == 0)
    assert ("KeyError" in ended.stderr) == (status == 1)
