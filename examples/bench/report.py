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
        """Whether every target is reached of which there is a figure."""
        return all(target.is_met(spread.median) for target, spread in self.judged if spread is not None)

    @property
    def judged(self) -> list[tuple[Target, Spread | None]]:
        """The targets with what was measured; None where that could not be: its baseline is not installed."""
        return [(target, self.measurement.figures.get(target.figure)) for target in self.benchmark.targets]

    @property
    def closing_line(self) -> str:
        """`NAME value=... target=... ok|short`; several figures stand in the order of their targets, with slashes."""
        values = "/".join(_number(spread.median) if spread else "-" for _, spread in self.judged)
        bounds = "/".join(str(target) for target, _ in self.judged)
        return f"{self.benchmark.name} value={values} target={bounds} {'ok' if self.is_met else 'short'}"


def table_of(runs: Sequence[Done]) -> Table:
    """Return the table for a terminal: one line a figure."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("benchmark", "figure", "value", "of the rounds", "target", ""):
        table.add_column(heading, justify="right" if heading in ("value", "target") else "left", no_wrap=True)
    for done in runs:
        name = done.benchmark.name
        for target, spread in done.judged:
            if spread is None:
                table.add_row(name, target.figure, "-", "not measured", _bound(target), "")
                name = ""
                continue
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
        for target, spread in done.judged:
            figure = f"{target.figure} " if len(done.benchmark.targets) > 1 else ""
            values.append(figure + (_with_unit(spread.median, target) if spread else "-"))
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
                **asdict(spread),
                "target": str(target),
                "unit": target.unit,
                "met": target.is_met(spread.median),
            }
            for target, spread in done.judged
            if spread is not None
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
