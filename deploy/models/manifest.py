"""The list of a model folder's files with sizes and hashes, and checks against it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

FILE_NAME = "MANIFEST.json"


def write(folder: Path) -> None:
    """Write the manifest of every file now in `folder`; its presence marks the folder as complete."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != FILE_NAME
    }
    (folder / FILE_NAME).write_text(json.dumps({"files": files}, indent=2) + "\n")


def problems(folder: Path, *, hashes: bool) -> list[str]:
    """Return what differs from the manifest, empty where nothing does.

    Sizes are compared always (milliseconds); contents only when `hashes` is set (seconds per gigabyte).
    """
    try:
        files = json.loads((folder / FILE_NAME).read_text())["files"]
    except FileNotFoundError:
        return [f"{FILE_NAME} is missing"]
    except (ValueError, KeyError, TypeError):
        return [f"{FILE_NAME} is unreadable"]
    found = []
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != expected["bytes"]:
            found.append(f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}")
        elif hashes and sha256(path) != expected["sha256"]:
            found.append(f"{name} has other contents than when it was made")
    return found


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
