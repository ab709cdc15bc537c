"""Flat packages: their names lead to ours, and the client stays light."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "faust", "mlflow", "boto3", "numpy", "PIL", "av")


def in_clean_interpreter(script: str) -> object:
    """Run `script`, which prints JSON, outside this folder, so that only what is installed can be found."""
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=elsewhere, capture_output=True, text=True, check=True
        )
    return json.loads(done.stdout)


@pytest.mark.processes
def test_every_package_resolves_to_ours() -> None:
    names = ["deploy", "engines", "handlers", "streams"]
    origins = in_clean_interpreter(
        "import json; from importlib.util import find_spec;"
        f"print(json.dumps({{name: find_spec(name).origin for name in {names}}}))"
    )
    assert origins == {name: str(ROOT / name / "__init__.py") for name in names}


def test_every_package_says_that_it_is_typed() -> None:
    untyped = [
        name
        for name in ("deploy", "engines", "handlers", "streams")
        if not (ROOT / name / "py.typed").is_file()
    ]
    assert untyped == []


@pytest.mark.processes
@pytest.mark.parametrize(
    ("modules", "without"),
    [
        ("engines, handlers", HEAVY),
        ("streams.messages, streams.client, streams.kafka.topics, streams.kafka.cloudevents", HEAVY),
        ("streams.media", (*HEAVY, "httpx", "pycurl")),
        ("streams.http.gateway, streams.http.serving", ("torch", "transformers", "faust", "mlflow", "boto3")),
    ],
)
def test_what_is_imported_brings_in_nothing_heavy(modules: str, without: tuple[str, ...]) -> None:
    loaded = in_clean_interpreter(
        f"import json, sys, {modules}; print(json.dumps([name for name in {without} if name in sys.modules]))"
    )
    assert loaded == []
