"""`inferstream bench`: run the benchmarks of a checkout."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from streams.cli.command_line import command

_MODULE = "examples.bench"


@command(
    "inferstream bench --list",
    "inferstream bench stream-share generation-burst",
    "inferstream bench --quick",
    "inferstream bench stream-share --kafka-home ~/kafka_2.13-4.3.1",
)
def bench(
    name: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Benchmarks to run. Default: all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Short runs that only show that all works.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of each. Default: its own number.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where a target is missed.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Show the benchmarks and run none.")] = False,
    directory: Annotated[Path, typer.Option(help="Where JSON and plots go.")] = Path(".local/bench"),
    kafka_home: Annotated[
        Path | None, typer.Option(help="An unpacked release of Apache Kafka, to run in place of the embedded broker.")
    ] = None,
) -> None:
    """Measure speed and memory against baselines, in interleaved runs on separate servers.

    Exit status: 0 all ran (a target may be missed), 1 one could not be run, 2 no such benchmark, or no checkout.
    """
    # The benchmarks need the tests' recordings and models, which only a checkout has; nothing of the installed
    # product may depend on them, so they are imported by name.
    if not (find_spec("examples") and find_spec(_MODULE)):
        typer.echo(
            "✗ the benchmarks are not part of the installed package; run them in a checkout of the source: make bench",
            err=True,
        )
        raise typer.Exit(2)
    flags = [flag for flag, is_set in (("--quick", quick), ("--strict", strict), ("--list", show)) if is_set]
    if rounds is not None:
        flags += ["--rounds", str(rounds)]
    if kafka_home is not None:
        flags += ["--kafka-home", str(kafka_home)]
    main = importlib.import_module(f"{_MODULE}.__main__").main
    raise typer.Exit(main([*(name or []), *flags, "--directory", str(directory)]))
