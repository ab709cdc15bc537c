"""The command `inferstream`: `command_line` finds the subcommand, and each has a module of its name."""

import sys

from streams.interrupts import INTERRUPTED, quiet_imports


def main() -> None:
    """Run the command line of this process, and exit."""
    with quiet_imports():
        from streams.cli.command_line import run
    try:
        run()
    except KeyboardInterrupt:  # before the command itself has begun
        sys.exit(INTERRUPTED)
