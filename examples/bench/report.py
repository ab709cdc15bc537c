"""What a run of benchmarks leaves: a table, one closing line for each, JSON, Markdown and plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from examples.bench.benchmark import Benchmark, Measurement, Spread, Target
from examples.bench.machine import one_line


@dataclass(frozen=True, slots=True)
class Done:
    """A benchmark that ran to its end."""

    benchmark: Benchmark
    measurement: Measurement
    seconds: float

    @property
    def is_met(self) -> bool:
        """Whether every target is reached."""
        figures = self.measurement.figures
        return all(target.is_met(figures[target.figure].median) for target in self.benchmark.targets)

    @property
    def closing_line(self) -> str:
        """`NAME value=... target=... ok|short`; several figures stand in the order of their targets, with slashes."""
        targets = self.benchmark.targets
        values = "/".join(_number(self.measurement.figures[target.figure].median) for target in targets)
        bounds = "/".join(map(str, targets))
        return f"{self.benchmark.name} value={values} target={bounds} {'ok' if self.is_met else 'short'}"


def table_of(runs: Sequence[Done]) -> Table:
    """Return the table for a terminal: one line a figure."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("benchmark", "figure", "value", "of the rounds", "target", ""):
        table.add_column(heading, justify="right" if heading in ("value", "target") else "left", no_wrap=True)
    for done in runs:
        name = done.benchmark.name
        for target in done.benchmark.targets:
            spread = done.measurement.figures[target.figure]
            is_met = target.is_met(spread.median)
            mark = Text("ok", "green") if is_met else Text("short", "bold yellow")
            value = Text(_with_unit(spread.median, target), "bold")
            table.add_row(name, target.figure, value, _spread(spread), _bound(target), mark)
            name = ""
    return table


def markdown_of(runs: Sequence[Done], machine: dict[str, Any]) -> str:
    """Return the same table for a README, with the machine described below it."""
    lines = ["| benchmark | what | value | target | |", "|---|---|---|---|---|"]
    for done in runs:
        values, bounds = [], []
        for target in done.benchmark.targets:
            figure = f"{target.figure} " if len(done.benchmark.targets) > 1 else ""
            values.append(figure + _with_unit(done.measurement.figures[target.figure].median, target))
            bounds.append(_bound(target))
        verdict = "ok" if done.is_met else "short"
        cells = (done.benchmark.name, done.benchmark.what, ", ".join(values), ", ".join(bounds), verdict)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Measured on {one_line(machine)}.", ""])


def write_json(done: Done, machine: dict[str, Any], directory: Path) -> Path:
    """Write everything known of one run to `directory/NAME.json` and return its path."""
    benchmark, measurement = done.benchmark, done.measurement
    report = {
        "name": benchmark.name,
        "what": benchmark.what,
        "met": done.is_met,
        "figures": {
            target.figure: {
                **asdict(measurement.figures[target.figure]),
                "target": str(target),
                "unit": target.unit,
                "met": target.is_met(measurement.figures[target.figure].median),
            }
            for target in benchmark.targets
        },
        "notes": list(measurement.notes),
        "details": dict(measurement.details),
        "charts": [asdict(chart) for chart in measurement.charts],
        "seconds": round(done.seconds, 1),
        "machine": machine,
    }
    path = directory / f"{benchmark.name}.json"
    path.write_text(json.dumps(report, indent=2, default=str) + "\n")
    return path


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def _with_unit(value: float, target: Target) -> str:
    return f"{_number(value)} {target.unit}".rstrip()


def _bound(target: Target) -> str:
    return f"{target.comparison} {target.bound:g} {target.unit}".rstrip()


def _spread(spread: Spread) -> str:
    if spread.rounds == 1:
        return "one"
    return f"{spread.rounds}: {_number(spread.low)} to {_number(spread.high)}"
