"""Runs many seeds on all cores, prints those that fail, and makes the first small: `make simulate RUNS=20000`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tests.simulation.plan import Plan
from tests.simulation.world import simulate

_AT_ONCE = 25
_MOST_FAILURES = 5


def failing(seeds: Iterable[int]) -> list[int]:
    """Return those of `seeds` whose runs fail."""
    return [seed for seed in seeds if simulate(Plan.of(seed))]


def shrink(plan: Plan, fails: Callable[[Plan], bool] = lambda plan: bool(simulate(plan))) -> Plan:
    """Return the smallest plan that is found to fail as well: one thing less at a time, as long as it fails."""
    while smaller := next(filter(fails, plan.smaller()), None):
        plan = smaller
    return plan


def report(seed: int) -> str:
    """Say what goes wrong with a seed, and in how little."""
    small = shrink(Plan.of(seed))
    lines = [f"seed {seed} fails: {simulate(Plan.of(seed))[0]}", f"so does {small}:"]
    return "\n  ".join([*lines, *simulate(small)])


def bar() -> Progress:
    """Return a bar on a terminal, and nothing elsewhere."""
    console = Console(stderr=True)
    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=console, disable=not console.is_terminal)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the seeds that the command line names; return 1 where one fails."""
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="how many seeds, 1 or more")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    asked = parser.parse_args(arguments)
    if asked.runs < 1:
        parser.error(f"--runs is {asked.runs}; it must be 1 or more")
    began = time.monotonic()
    last = asked.first + asked.runs
    chunks = [range(one, min(one + _AT_ONCE, last)) for one in range(asked.first, last, _AT_ONCE)]
    failed: list[int] = []
    done = 0
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool, bar() as shown:
        row = shown.add_task("none failed", total=asked.runs)
        running = {pool.submit(failing, seeds): len(seeds) for seeds in chunks}
        for one in as_completed(running):
            failed += one.result()
            done += running[one]
            shown.update(row, completed=done, description=f"{len(failed) or 'none'} failed")
            if len(failed) >= _MOST_FAILURES:
                pool.shutdown(cancel_futures=True)
                break
    failed.sort()
    took_s = time.monotonic() - began
    sys.stdout.write(
        f"{done} of {asked.runs} runs from seed {asked.first} in {took_s:.0f} s, failed: {failed or 'none'}\n"
    )
    for seed in failed:
        sys.stdout.write(f"seed {seed}: run it again with `make simulate RUNS=1 FIRST={seed}`\n")
    if failed:
        sys.stdout.write(report(failed[0]) + "\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
