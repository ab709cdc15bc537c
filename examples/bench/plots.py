"""Draws what was measured: one PNG a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from examples.bench.benchmark import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH_IN, _HEIGHT_IN = 6.4, 4.0


def draw(charts: Sequence[Chart], path: Path, *, title: str) -> None:
    """Write `charts` side by side to `path`, which ends in .png."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_IN * len(charts), _HEIGHT_IN), layout="constrained")
    figure.suptitle(title)
    for position, chart in enumerate(charts, start=1):
        axes = figure.add_subplot(1, len(charts), position)
        axes.set_title(chart.title, fontsize="medium")
        {"rounds": _rounds, "distribution": _distribution, "course": _course}[chart.kind](axes, chart)
        axes.grid(visible=True, alpha=0.3)
        if len(chart.series) > 1 and chart.kind != "rounds":
            axes.legend()
    figure.savefig(path, dpi=110)


def _rounds(axes: Axes, chart: Chart) -> None:
    names = list(chart.series)
    axes.bar(names, [max(values) for values in chart.series.values()], width=0.5, alpha=0.35)
    for position, values in enumerate(chart.series.values()):
        axes.plot([position] * len(values), list(values), "o", color="black", markersize=4)
    axes.set_ylabel(chart.unit)
    axes.set_ylim(bottom=0)
    _line(axes, chart)


def _distribution(axes: Axes, chart: Chart) -> None:
    for name, values in chart.series.items():
        shares = [(position + 1) / len(values) for position in range(len(values))]
        axes.step(sorted(values), shares, where="post", label=name)
    axes.set_xlabel(chart.unit)
    axes.set_ylabel("share at or below")
    axes.set_ylim(0, 1)


def _course(axes: Axes, chart: Chart) -> None:
    for name, values in chart.series.items():
        axes.plot(list(values), label=name)
    axes.set_ylabel(chart.unit)
    axes.set_ylim(bottom=0)
    _line(axes, chart)


def _line(axes: Axes, chart: Chart) -> None:
    if chart.bound is not None:
        axes.axhline(chart.bound, color="tab:red", linestyle="--", linewidth=1)
