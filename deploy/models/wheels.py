"""Fetches package wheels without their dependencies and unpacks them into a folder."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

_TIMEOUT_S = 900.0
_ERROR_CHARACTERS = 1_500


class FetchError(Exception):
    """Raised when neither uv nor pip could fetch a wheel; the message carries what each of them said."""


def fetch(requirements: Sequence[str], target: Path) -> None:
    """Unpack the wheels of `requirements` (each pinned by ==) into the folder `target`.

    The wheels stay out of this environment, and nothing they depend on is fetched. The package index is the
    one that uv and pip are configured for.

    Raises:
        FetchError: retryable; no index answered, or it does not have these versions.
    """
    attempts = [attempt for attempt in (_uv_command(), _pip_command()) if attempt is not None]
    complaints = []
    for tool, command in attempts:
        complaint = _run([*command, str(target), *requirements])
        if complaint is None:
            for wheel in target.glob("*.whl"):  # pip only downloads them; uv has unpacked them
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(target)
                wheel.unlink()
            return
        complaints.append(f"{tool}: {complaint}")
    said = "\n".join(complaints) or "neither uv nor pip is installed beside this Python"
    raise FetchError(
        f"could not fetch {', '.join(requirements)}; check that the package index is reachable.\n{said}"
    )


def _uv_command() -> tuple[str, list[str]] | None:
    if importlib.util.find_spec("uv") is None:
        return None
    from uv import find_uv_bin

    install = [find_uv_bin(), "pip", "install", "--quiet", "--python", sys.executable]
    return "uv", [*install, "--no-deps", "--only-binary", ":all:", "--target"]


def _pip_command() -> tuple[str, list[str]] | None:
    if importlib.util.find_spec("pip") is None:
        return None
    download = [sys.executable, "-m", "pip", "download", "--quiet"]
    return "pip", [*download, "--no-deps", "--only-binary", ":all:", "--dest"]


def _run(command: Sequence[str]) -> str | None:
    """Return None when the command succeeds, else the end of what it said."""
    environment = dict(os.environ)
    if "PIP_FIND_LINKS" in environment:
        environment.setdefault(
            "UV_FIND_LINKS", environment["PIP_FIND_LINKS"]
        )  # uv does not read pip's setting
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return (done.stderr or done.stdout).strip()[-_ERROR_CHARACTERS:] or f"ended with status {done.returncode}"
