"""Flat packages: their names lead to ours, and the client stays light."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tempfile
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from streams.cli.command_line import EXTRAS

ROOT = Path(__file__).parents[2]
PACKAGES = ("deploy", "engines", "handlers", "streams")
HEAVY = ("torch", "transformers", "faust", "mlflow", "boto3", "numpy", "PIL", "av")


def in_clean_interpreter(script: str) -> object:
    """Run `script`, which prints JSON, outside this folder, so that only what is installed can be found."""
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run([sys.executable, "-c", script], cwd=elsewhere, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.processes
def test_every_package_resolves_to_ours() -> None:
    names = list(PACKAGES)
    origins = in_clean_interpreter(
        "import json; from importlib.util import find_spec;"
        f"print(json.dumps({{name: find_spec(name).origin for name in {names}}}))"
    )
    assert origins == {name: str(ROOT / name / "__init__.py") for name in names}


def imported(path: Path) -> set[str]:
    """Return the modules of others that a file imports, anywhere in it but for its types."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module)
        waiting += ast.iter_child_nodes(node)
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - set(PACKAGES)


@cache
def declared_by(extra: str) -> set[str]:
    """Return the distributions that pyproject.toml names for an extra, and for the core without one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = map(Requirement, project["optional-dependencies"][extra] if extra else project["dependencies"])
    found: set[str] = set()
    for one in needed:
        found |= set().union(*map(declared_by, one.extras)) if one.name == "inferstream" else {one.name}
    return set(map(canonicalize_name, found))


def test_what_is_imported_is_declared_and_its_extra_can_be_told() -> None:
    distributions = packages_distributions()
    for path in (file for name in PACKAGES for file in (ROOT / name).rglob("*.py")):
        for module in imported(path):
            of = set(map(canonicalize_name, distributions[module]))
            extra = "" if of & declared_by("") else EXTRAS.get(module)
            assert extra is not None, f"{path}: {module} is neither of the core nor in EXTRAS"
            assert of & declared_by(extra), f"{path}: {module} is not declared by the extra {extra!r}"


def test_every_package_says_that_it_is_typed() -> None:
    untyped = [name for name in PACKAGES if not (ROOT / name / "py.typed").is_file()]
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
