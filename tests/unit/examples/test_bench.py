"""The frame of the benchmarks on made-up ones: turns, verdicts, files, exit statuses. Nothing is timed."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from examples.bench import generation_poisson
from examples.bench.__main__ import main
from examples.bench.benchmark import (
    Benchmark,
    Chart,
    Measurement,
    Spread,
    Target,
    interleaved,
    percentile,
    ratios,
)
from examples.bench.context import Bench, Context
from examples.bench.hot_swap import GRACE_S, Flip, is_wrong
from examples.bench.report import Done
from examples.bench.running import run_benchmarks
from examples.bench.stopwatch import Answered
from examples.bench.suite import MODULES, load
from handlers.registry import model_registry

pytestmark = pytest.mark.waits

PNG = b"\x89PNG\r\n\x1a\n"


def made_up(
    name: str = "made-up",
    *,
    values: Sequence[float] = (0.5,),
    targets: Sequence[Target] = (Target("share", ">=", 0.3),),
    fails: bool = False,
) -> Benchmark:
    async def run(context: Context) -> Measurement:
        context.report("measuring", 0.5)
        if fails:
            raise RuntimeError("it does not work")
        figures = {target.figure: Spread.of([value]) for target, value in zip(targets, values, strict=False)}
        charts = [
            Chart("rates", "1/s", {"ours": [1.0, 2.0], "theirs": [2.0, 3.0]}),
            Chart("latency", "ms", {"ours": [1.0, 2.0], "theirs": [2.0, 3.0]}, "distribution"),
            Chart("memory", "MB", {"worker": [1.0, 2.0]}, "course", bound=1.5),
        ]
        return Measurement(figures, charts, notes=["as it was"], details={"rounds": 1})

    return Benchmark(name, "nothing at all", targets, run)


def run_made_up(
    directory: Path, *benchmarks: Benchmark, is_quick: bool = False, is_strict: bool = False
) -> tuple[int, str]:
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    status = run_benchmarks(benchmarks, directory, console=console, is_quick=is_quick, is_strict=is_strict)
    return status, shown.getvalue()


@pytest.mark.parametrize(("comparison", "met", "missed"), [(">=", 0.3, 0.2999), ("<=", 0.3, 0.3001), ("==", 0.3, 0.31)])
def test_a_target_is_met_at_its_bound_and_missed_just_beyond(comparison: str, met: float, missed: float) -> None:
    target = Target("share", comparison, 0.3)  # type: ignore[arg-type]
    assert target.is_met(met)
    assert not target.is_met(missed)


async def test_sides_take_turns_and_every_second_round_goes_the_other_way() -> None:
    turns: list[str] = []

    async def side(name: str, value: float) -> float:
        turns.append(name)
        return value * len(turns)

    figures = await interleaved({"a": lambda: side("a", 1.0), "b": lambda: side("b", 10.0)}, 3)
    assert turns == ["a", "b", "b", "a", "a", "b"]
    assert figures == {"a": [1.0, 4.0, 5.0], "b": [20.0, 30.0, 60.0]}


def test_ratios_are_taken_within_each_round() -> None:
    spread = ratios({"ours": [1.0, 8.0, 3.0], "theirs": [2.0, 8.0, 2.0]}, "ours", over="theirs")
    assert spread == Spread(median=1.0, low=0.5, high=1.5, rounds=3)


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(100)]
    random.Random(1).shuffle(values)
    assert [percentile(values, percent) for percent in (0, 50, 95, 99, 100)] == [0, 50, 95, 99, 99]
    assert percentile([7.0], 99) == 7.0


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ((0.31234, 3.0), "made-up value=0.312/3 target=>=0.3/<=5 ok"),
        ((0.31234, 5.01), "made-up value=0.312/5.01 target=>=0.3/<=5 short"),
        ((0.31234,), "made-up value=0.312/- target=>=0.3/<=5 ok"),
        ((1234.5, 3.0), "made-up value=1234/3 target=>=0.3/<=5 ok"),
    ],
)
def test_the_closing_line_has_every_figure_in_the_order_of_the_targets(values: tuple[float, ...], line: str) -> None:
    targets = [Target("share", ">=", 0.3), Target("p50", "<=", 5, "ms")]
    figures = {target.figure: Spread.of([value]) for target, value in zip(targets, values, strict=False)}
    done = Done(made_up(targets=targets), Measurement(figures), seconds=1.0)
    assert done.closing_line == line


def test_a_run_leaves_json_a_plot_and_a_table_and_ends_with_its_line(tmp_path: Path) -> None:
    status, shown = run_made_up(tmp_path, made_up())
    assert status == 0
    assert "made-up value=0.5 target=>=0.3 ok" in shown.splitlines()
    assert "· as it was" in shown
    report = json.loads((tmp_path / "made-up.json").read_text())
    assert report["figures"]["share"]["median"] == 0.5
    assert report["figures"]["share"]["met"] is True
    assert report["machine"]["cores"] >= 1
    assert (tmp_path / "made-up.png").read_bytes().startswith(PNG)
    table = (tmp_path / "table.md").read_text()
    assert "| made-up | nothing at all | 0.5 | >=0.3 | ok |" in table
    assert report["machine"]["cpu"] in table


def test_the_table_keeps_what_was_measured_before(tmp_path: Path) -> None:
    run_made_up(tmp_path, made_up("cache"), made_up("memory", values=[0.1]))
    run_made_up(tmp_path, made_up("stream-share", values=[0.7]))
    run_made_up(tmp_path, made_up("cache", values=[0.9]))
    rows = [line for line in (tmp_path / "table.md").read_text().splitlines() if "nothing" in line]
    assert rows == [
        "| stream-share | nothing at all | 0.7 | >=0.3 | ok |",
        "| cache | nothing at all | 0.9 | >=0.3 | ok |",
        "| memory | nothing at all | 0.1 | >=0.3 | short |",
    ]


def test_a_missed_target_is_told_and_fails_only_a_strict_run(tmp_path: Path) -> None:
    status, shown = run_made_up(tmp_path, made_up(values=[0.1]))
    assert status == 0
    assert "made-up value=0.1 target=>=0.3 short" in shown
    status, _ = run_made_up(tmp_path, made_up(values=[0.1]), made_up("other"), is_strict=True)
    assert status == 1


def test_what_cannot_be_run_is_named_and_the_others_still_run(tmp_path: Path) -> None:
    status, shown = run_made_up(tmp_path, made_up("broken", fails=True), made_up("sound"))
    assert status == 1
    assert "it does not work" in shown
    assert "✗ broken could not be run" in shown
    assert "sound value=0.5 target=>=0.3 ok" in shown
    assert not (tmp_path / "broken.json").exists()


def test_figures_of_a_quick_run_do_not_replace_real_ones(tmp_path: Path) -> None:
    run_made_up(tmp_path, made_up())
    run_made_up(tmp_path, made_up(values=[0.9]), is_quick=True)
    real, quick = (json.loads((folder / "made-up.json").read_text()) for folder in (tmp_path, tmp_path / "quick"))
    assert real["figures"]["share"]["median"] == 0.5
    assert quick["figures"]["share"]["median"] == 0.9


def test_a_quick_run_has_one_round_and_few_requests_unless_rounds_are_asked_for(tmp_path: Path) -> None:
    usual, quick, asked = (
        Context(Bench(tmp_path, is_quick=is_quick, rounds=rounds), "x")
        for is_quick, rounds in ((False, None), (True, None), (True, 4))
    )
    assert [context.rounds(3) for context in (usual, quick, asked)] == [3, 1, 4]
    assert [context.scaled(500, quick=8) for context in (usual, quick, asked)] == [500, 8, 8]


def test_the_benchmarks_own_tasks_are_registered_in_their_workers_alone() -> None:
    for name in MODULES:
        load(name)
    assert not {"noop", "timed"} & set(model_registry.tasks())


@pytest.mark.parametrize("name", MODULES)
def test_every_benchmark_bears_its_name_and_its_targets_name_different_figures(name: str) -> None:
    benchmark = load(name)
    assert benchmark.name == name
    figures = [target.figure for target in benchmark.targets]
    assert figures
    assert len(set(figures)) == len(figures)


def test_the_command_line_lists_the_benchmarks_and_refuses_a_name_it_does_not_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in MODULES)
    with pytest.raises(SystemExit) as leaving:
        main(["stream-shore"])
    assert leaving.value.code == 2
    assert "there is no benchmark 'stream-shore'; there are stream-share," in capsys.readouterr().err


def test_one_server_takes_requests_in_their_order() -> None:
    assert generation_poisson.queued([0.0, 1.0, 10.0], [2.0, 2.0, 1.0]) == [2.0, 3.0, 1.0]


def test_requests_come_at_the_asked_rate_and_always_at_the_same_times() -> None:
    times = generation_poisson.poisson(2000, 4.0)
    assert times == generation_poisson.poisson(2000, 4.0)
    assert times == sorted(times)
    assert times[-1] == pytest.approx(500, rel=0.1)


def test_a_busy_clock_skips_idle_time_forwards_only() -> None:
    cpu_s = 5.0
    clock = generation_poisson.BusyClock(lambda: cpu_s)
    cpu_s = 6.0
    assert clock.now() == 1.0
    clock.skip_to(4.0)
    clock.skip_to(2.0)
    assert clock.now() == 4.0
    cpu_s = 7.0
    assert clock.now() == 5.0


@pytest.mark.parametrize(
    ("sent_at", "answered_by", "is_expected_wrong"),
    [
        (5.0, "1", False),  # before the flip, by the version of then
        (5.0, "2", True),  # by one that nobody had asked for yet
        (10.0 + GRACE_S / 2, "1", False),  # workers have not looked yet
        (10.0 + GRACE_S / 2, "2", False),
        (10.1 + GRACE_S, "1", True),  # too late for the old one
        (10.1 + GRACE_S, "2", False),
    ],
)
def test_a_version_is_wrong_before_its_time_and_after(
    sent_at: float, answered_by: str, is_expected_wrong: bool
) -> None:
    flips = [Flip(0.0, "1"), Flip(10.0, "2")]
    value = json.dumps({"model_version": answered_by, "result": {"version": answered_by}})
    assert is_wrong(Answered(sent_at, sent_at + 0.1, value.encode()), flips) is is_expected_wrong


def test_an_answer_of_another_version_than_its_result_says_is_wrong() -> None:
    value = json.dumps({"model_version": "1", "result": {"version": "2"}}).encode()
    assert is_wrong(Answered(0.5, 0.6, value), [Flip(0.0, "1"), Flip(0.4, "2")])
