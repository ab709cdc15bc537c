"""What aiokafka and Faust do not promise is used in few places, where whoever moves to a new version of them looks."""

from __future__ import annotations

import ast
from pathlib import Path

import streams

ROOT = Path(streams.__file__).parent
KNOWN = {"kafka/header_names.py", "kafka/patient_connections.py", "media/s3.py"}  # the last of botocore


def private_names(source: str) -> set[str]:
    """Return the names with one leading underscore that are asked of others than the object or class itself."""
    return {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls", "os", "sys"})
    }


def test_private_names_of_others_are_used_in_the_room_of_faust_and_three_files() -> None:
    using = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if private_names(path.read_text(encoding="utf-8"))
    }
    assert {name for name in using if not name.startswith("faust/")} == KNOWN
