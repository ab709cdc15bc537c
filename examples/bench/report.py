"""What a run of benchmarks leaves: a table, one closing line for each, JSON, Markdown and plots."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
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


def markdown_of(reports: Sequence[dict[str, Any]]) -> str:
    """Return a table for a README of what `write_json` wrote, with the machines described below it."""
    lines = ["| benchmark | what | value | target | |", "|---|---|---|---|---|"]
    for report in reports:
        figures = report["figures"]
        values = [
            f"{f'{name} ' if len(figures) > 1 else ''}{_number(its['median'])} {its['unit']}".rstrip()
            for name, its in figures.items()
        ]
        bounds = [f"{its['target']} {its['unit']}".rstrip() for its in figures.values()]
        verdict = "ok" if report["met"] else "short"
        lines.append(f"| {report['name']} | {report['what']} | {', '.join(values)} | {', '.join(bounds)} | {verdict} |")
    machines = dict.fromkeys(one_line(report["machine"]) for report in reports)
    return "\n".join([*lines, "", *(f"Measured on {machine}." for machine in machines), ""])


def latest_reports(directory: Path, order: Collection[str]) -> list[dict[str, Any]]:
    """Return what lies in `directory` of benchmarks that are in `order`, in that order: the latest run of each."""
    paths = [directory / f"{name}.json" for name in order]
    return [json.loads(path.read_text()) for path in paths if path.is_file()]


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
