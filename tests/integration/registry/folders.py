"""Folders that stand for models, what is in them, and the type of what makes managers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engines.models.model_files import STAMP
from engines.models.model_manager import ModelManager

Make = Callable[..., ModelManager]


def model_folder(folder: Path, *, weights: bytes = b"w" * 1000) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    (folder / "sub" / "weights.safetensors").write_bytes(weights)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != STAMP
    }
