"""What aiokafka and Faust do not promise is used in one file each, where whoever moves to a new version looks."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import streams

ROOT = Path(streams.__file__).parent
AIOKAFKA, FAUST, BOTOCORE = "kafka/aiokafka_internals.py", "faust/faust_internals.py", "media/s3.py"
LIBRARIES = ("aiokafka", "faust", "mode")


def private_names(source: str) -> set[str]:
    """Return the names with one leading underscore that are asked of others than the object or class itself."""
    return {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and _is_private(node.attr)
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls", "os", "sys"})
    }


def inherited_private_names(path: Path) -> Iterator[str]:
    """Yield the private names of a library's class that a class of this file overrides or calls on itself."""
    name = path.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", ".")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ClassDef) or not node.bases:
            continue
        made = getattr(importlib.import_module(name), node.name, None)
        if not inspect.isclass(made):
            continue
        theirs = {one for base in made.__mro__ if base.__module__.split(".")[0] in LIBRARIES for one in vars(base)}
        own = {one.name for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
        asked = {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}
        yield from filter(_is_private, theirs & (own | asked))


def test_private_names_of_libraries_are_asked_for_in_one_file_each() -> None:
    using = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if private_names(path.read_text(encoding="utf-8"))
    }
    assert using == {AIOKAFKA, FAUST, BOTOCORE}


def test_private_names_of_aiokafka_and_faust_are_inherited_in_one_file() -> None:
    using = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if path.parent.name in ("faust", "kafka", "delivery") and set(inherited_private_names(path))
    }
    assert using == {FAUST}


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")
