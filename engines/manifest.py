"""One digest for a whole folder of model files, so that a download can be told from what was registered."""

from __future__ import annotations

import hashlib
from pathlib import Path


def files_in(folder: Path) -> list[Path]:
    """Return every file below `folder`, in order of relative path."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digest_of(folder: Path) -> str:
    """Return the SHA-256, in hex, of the folder's manifest.

    The manifest is one line per file, in order of path: the file's own SHA-256, two spaces, its path relative
    to the folder with forward slashes, as `sha256sum` writes them.
    """
    manifest = hashlib.sha256()
    for path in files_in(folder):
        with path.open("rb") as file:
            one = hashlib.file_digest(file, "sha256").hexdigest()
        manifest.update(f"{one}  {path.relative_to(folder).as_posix()}\n".encode())
    return manifest.hexdigest()
