"""Fetches package wheels without their dependencies and unpacks them into a folder."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_TIMEOUT_S = 900.0
_ERROR_CHARACTERS = 1_500
_ALONE = ("--quiet", "--no-deps", "--only-binary", ":all:")


class FetchError(Exception):
    """Raised when neither uv nor pip could fetch a wheel; the message has the output of each."""


def fetch(requirements: Sequence[str], target: Path) -> None:
    """Unpack the wheels of `requirements` (each pinned by ==) into the folder `target`.

    The wheels stay out of this environment, and nothing they depend on is fetched. The package index is the one that
    uv and pip are configured for.

    Raises:
        FetchError: retryable; no index answered, or it does not have these versions.
    """
    complaints = []
    for tool, command in _tools():
        complaint = _run([*command, *_ALONE, "--target", str(target), *requirements])
        if complaint is None:
            return
        complaints.append(f"{tool}: {complaint}")
    said = "\n".join(complaints) or "neither uv nor pip is installed beside this Python"
    raise FetchError(f"could not fetch {', '.join(requirements)}; check that the package index is reachable.\n{said}")


def _tools() -> Iterator[tuple[str, list[str]]]:
    """Yield what can fetch wheels here, with the beginning of its command."""
    if importlib.util.find_spec("uv") is not None:
        from uv import find_uv_bin

        yield "uv", [find_uv_bin(), "pip", "install", "--python", sys.executable]
    if importlib.util.find_spec("pip") is not None:
        yield "pip", [sys.executable, "-m", "pip", "install", "--no-user", "--no-compile"]


def _run(command: Sequence[str]) -> str | None:
    """Return None when the command succeeds, else the end of what it said."""
    environment = dict(os.environ)
    if "PIP_FIND_LINKS" in environment:  # uv does not read pip's setting
        environment.setdefault("UV_FIND_LINKS", environment["PIP_FIND_LINKS"])
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return (done.stderr or done.stdout).strip()[-_ERROR_CHARACTERS:] or f"ended with status {done.returncode}"
