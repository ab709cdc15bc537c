"""Runs benchmarks one after the other and shows what comes of them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy.local import KafkaRelease, PartStatus
from examples.bench.benchmark import Benchmark
from examples.bench.context import Bench, Context
from examples.bench.machine import describe_machine, one_line
from examples.bench.plots import draw
from examples.bench.report import Done, latest_reports, markdown_of, table_of, write_json
from examples.bench.suite import MODULES
from streams import interrupts

EXIT_SHORT, EXIT_FAILED = 1, 1


def run_benchmarks(
    benchmarks: Sequence[Benchmark],
    directory: Path,
    *,
    console: Console,
    is_quick: bool = False,
    rounds: int | None = None,
    is_strict: bool = False,
    kafka: KafkaRelease | None = None,
) -> int:
    """Run `benchmarks`, leave their files in `directory`, and return the exit status.

    `kafka` runs Apache Kafka in place of the embedded broker.

    0: all ran, whether or not they reached their targets; 1: one could not be run, or fell short in a strict
    run. A quick run says whether they run at all; its figures mean little.
    """
    # A quick run's figures stand beside the real ones, not in their place.
    output = directory / "quick" if is_quick else directory
    output.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    console.print(f"{one_line(machine)}; load before: {machine['load']:g}", style="dim", highlight=False)
    runs: list[Done] = []
    broken: list[str] = []
    with Bench(
        directory,
        is_quick=is_quick,
        rounds=rounds,
        kafka=kafka,
        on_status=lambda status: _show(console, status),
    ) as bench:
        for benchmark in benchmarks:
            console.rule(benchmark.name, align="left")
            console.print(benchmark.what, highlight=False)
            try:
                done = _run(benchmark, bench, console)
            except Exception:  # noqa: BLE001 - shown whole, and the others still run
                console.print(traceback.format_exc(), style="red", markup=False, highlight=False)
                broken.append(benchmark.name)
                continue
            runs.append(done)
            for note in done.measurement.notes:
                console.print(f"· {note}", style="dim", highlight=False)
            write_json(done, machine, output)
            if done.measurement.charts:
                draw(done.measurement.charts, output / f"{benchmark.name}.png", title=benchmark.name)
            console.print(done.closing_line, highlight=False, soft_wrap=True)
    console.rule("benchmarks", align="left")
    console.print(table_of(runs))
    # Along with those of earlier runs: a table of all there is, however few were run this time.
    order = dict.fromkeys([*MODULES, *(benchmark.name for benchmark in benchmarks)])
    (output / "table.md").write_text(markdown_of(latest_reports(output, order)))
    console.print(f"JSON and plots: {output}", style="dim", highlight=False, soft_wrap=True)
    for name in broken:
        console.print(f"✗ {name} could not be run", style="bold red", highlight=False)
    if broken:
        return EXIT_FAILED
    return EXIT_SHORT if is_strict and not all(done.is_met for done in runs) else 0


def list_benchmarks(benchmarks: Mapping[str, Benchmark], console: Console) -> None:
    """Show what there is to run."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    table.add_column(no_wrap=True)
    for name, benchmark in benchmarks.items():
        table.add_row(name, benchmark.what, " ".join(map(str, benchmark.targets)))
    console.print(table)


def _run(benchmark: Benchmark, bench: Bench, console: Console) -> Done:
    columns = (BarColumn(bar_width=30), TextColumn("{task.description}"), TimeElapsedColumn())
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True) as bar:
        row = bar.add_task("starting", total=1.0)

        def report(what: str, fraction: float) -> None:
            bar.update(row, description=what, completed=fraction)
            if not console.is_terminal:
                console.print(f"  {what}", style="dim", highlight=False)

        with Context(bench, benchmark.name, report) as context:
            # On the kind of loop that a worker has.
            measurement = interrupts.run(benchmark.run(context), loop_factory=uvloop.new_event_loop)
    return Done(benchmark, measurement, time.monotonic() - began)


def _show(console: Console, status: PartStatus) -> None:
    if status.status in ("ready", "failed"):
        console.print(f"  {status.name} {status.status}", style="dim", highlight=False)
