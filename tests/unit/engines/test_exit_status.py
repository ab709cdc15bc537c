"""A process that leaves a call behind in native code ends with its own status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.engines.tiny_models import save_llama

pytestmark = pytest.mark.processes

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


@pytest.mark.parametrize(
    ("ending", "status", "limit_s"),
    [("print('done')", 0, 0.1), ("raise SystemExit(3)", 3, 600), ("raise KeyError('mine')", 1, 600)],
)
def test_the_status_of_a_process_is_its_own_whatever_it_leaves_behind(ending: str, status: int, limit_s: float) -> None:
    program = PROGRAM.format(ending=ending, limit_s=limit_s)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == status, ended.stderr
    assert "terminate called" not in ended.stderr
    assert ("done" in ended.stdout) == (status == 0)
    assert ("KeyError" in ended.stderr) == (status == 1)


def test_a_process_whose_model_still_writes_a_text_ends_with_its_status(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "llama")
    program = """
import sys, threading
from engines.transformers.engine import TransformersEngine
from tests.device import on_this_machine

engine = TransformersEngine(on_this_machine())
model = engine.load_model("m", task="text-generation", path=sys.argv[1])
began = threading.Event()
step = model.model.forward

def slowly(*args, **kw):
    began.set()
    return step(*args, **kw)

model.model.forward = slowly
for _ in range(8):
    engine.submit(model, {"inputs": "a b"}, {"max_new_tokens": 50, "min_new_tokens": 50})
began.wait()
raise SystemExit(3)
"""
    ended = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 3, ended.stderr
