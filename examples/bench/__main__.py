"""`python -m examples.bench [NAME ...]`: run the benchmarks, all of them or those that are named."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from deploy.local import KafkaRelease, StackError
from engines.native_environment import set_native_defaults
from examples.bench.running import list_benchmarks, run_benchmarks
from examples.bench.suite import MODULES, load
from streams.logs import configure_logging
from streams.settings import LoggingSettings

KAFKA_HOME = "INFERSTREAM_TEST_KAFKA_HOME"
DIRECTORY = Path(".local/bench")
_WIDTH_IN_FILES = 110


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODULES))
    parser.add_argument("--quick", action="store_true", help="short runs that only show that all works")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of every benchmark, in place of its own")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--list", action="store_true", help="show the benchmarks and run none")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="where JSON and plots go")
    parser.add_argument(
        "--kafka-home",
        type=Path,
        default=os.environ.get(KAFKA_HOME) or None,
        metavar="DIR",
        help=f"an unpacked release of Apache Kafka to run in place of the embedded broker; else ${KAFKA_HOME}",
    )
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.names if name not in MODULES]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(MODULES)}")
    configure_logging(LoggingSettings(level="WARNING"))
    set_native_defaults()  # the benchmarks import torch; with threads that spin they would measure each other
    benchmarks = {name: load(name) for name in asked.names or MODULES}
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_IN_FILES)
    if asked.list:
        list_benchmarks(benchmarks, console)
        return 0
    try:
        return run_benchmarks(
            list(benchmarks.values()),
            asked.directory,
            console=console,
            is_quick=asked.quick,
            rounds=asked.rounds,
            is_strict=asked.strict,
            kafka=KafkaRelease.find(asked.kafka_home) if asked.kafka_home else None,
        )
    except StackError as error:
        Console(stderr=True).print(f"[bold red]✗[/bold red] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
