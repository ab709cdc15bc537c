"""Folders of model files: their digest, and the conversion of models that `mlflow.transformers` logged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handlers.errors import ModelLoadFailed

DESCRIPTION = "MLmodel"
"""The file in which MLflow describes a model that it logged itself."""


def flatten(folder: Path, key: str) -> None:
    """Change `folder`, our copy of model `key`, so that plain transformers loads it, where needed.

    Raises:
        ModelLoadFailed: permanent; another flavour, or a model that ships Python code.
    """
    described = folder / DESCRIPTION
    if not described.is_file():
        return
    flavour = _transformers_flavour(described, key)
    weights = folder / str(flavour.get("model_binary", "model"))
    if not weights.is_dir() or not weights.resolve().is_relative_to(folder.resolve()):
        raise ModelLoadFailed(f"model {key} has no folder {weights.name!r} with its weights; log it again")
    for source in (weights, *sorted((folder / "components").glob("*/"))):
        for path in sorted(source.iterdir()):
            target = folder / path.name
            if not target.exists():
                path.rename(target)


def refuse_logged(folder: Path, key: str) -> None:
    """Refuse a folder in MLflow's layout where it would be used in place.

    Raises:
        ModelLoadFailed: permanent.
    """
    if (folder / DESCRIPTION).is_file():
        raise ModelLoadFailed(
            f"model {key} is used in place at its physical_path, which must be a plain transformers folder "
            "and not one that MLflow logged; leave out the tag physical_path, so that the files are "
            "downloaded"
        )


def _transformers_flavour(described: Path, key: str) -> dict[str, Any]:
    import yaml

    try:
        description = yaml.safe_load(described.read_text(encoding="utf-8"))
        flavours: dict[str, dict[str, Any]] = dict(description["flavors"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ModelLoadFailed(f"model {key} has an {DESCRIPTION} file that is not readable: {error}") from error
    if "transformers" not in flavours:
        others = ", ".join(sorted(set(flavours) - {"python_function"})) or "python_function"
        raise ModelLoadFailed(
            f"model {key} was logged with flavour {others}; only mlflow.transformers and plain transformers "
            "folders can be loaded: log it with mlflow.transformers, or register its folder"
        )
    if any(flavour.get("code") for flavour in flavours.values()):
        raise ModelLoadFailed(
            f"model {key} ships Python code (code_paths), which a worker does not run; log it without code_paths"
        )
    return flavours["transformers"]


def files_in(folder: Path) -> list[Path]:
    """Return every file below `folder`, in order of relative path."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digest_of(folder: Path, each: Callable[[], None] = lambda: None) -> str:
    """Return the SHA-256, in hex, of the folder's manifest as `sha256sum` writes it: a line per file in order of path,
    with its SHA-256, two spaces, and its path relative to the folder. `each` is called after every file."""
    manifest = hashlib.sha256()
    for path in files_in(folder):
        with path.open("rb") as file:
            one = hashlib.file_digest(file, "sha256").hexdigest()
        manifest.update(f"{one}  {path.relative_to(folder).as_posix()}\n".encode())
        each()
    return manifest.hexdigest()
