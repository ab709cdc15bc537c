"""call-overhead: what a Python call of a no-op model takes, from one thread and from eight at once."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from engines.config.settings import EngineSettings
from engines.inference import InferenceManager
from examples.bench import noop
from examples.bench.benchmark import Benchmark, Chart, Measurement, Spread, Target
from examples.bench.context import Context
from streams.plugins import import_plugins

CALLS, THREADS, ROUNDS = 4_000, 8, 5
ONE, MANY = "one thread", "eight threads"


async def run(context: Context) -> Measurement:
    """Call from one thread, then the same number of times from eight, in turns."""
    context.register(noop.NAME, noop.TAGS)
    import_plugins(["examples.bench.plugins"])  # not before: tasks of a benchmark are nobody else's
    settings = context.site().settings
    rounds, calls = context.rounds(ROUNDS), context.scaled(CALLS, quick=80)
    return await asyncio.to_thread(_measure, context, settings, rounds, calls)


def _measure(context: Context, settings: EngineSettings, rounds: int, calls: int) -> Measurement:
    taken: dict[str, list[float]] = {ONE: [], MANY: []}
    on_turn = context.turns(rounds)
    manager = InferenceManager.from_settings(settings)
    try:
        _calls(manager, 50)
        for number in range(rounds):
            for side, threads in ((ONE, 1), (MANY, THREADS)):
                on_turn(side, number)
                taken[side].append(_microseconds(manager, calls, threads))
    finally:
        manager.close()
    return Measurement(
        figures={side: Spread.of(values) for side, values in taken.items()},
        charts=[Chart("time of a call", "µs", taken)],
        notes=["wall time over the number of calls; eight threads share one interpreter lock"],
        details={"microseconds": taken},
    )


def _microseconds(manager: InferenceManager, calls: int, threads: int) -> float:
    together = threading.Barrier(threads + 1)

    def work() -> None:
        together.wait()
        _calls(manager, calls // threads)

    with ThreadPoolExecutor(threads) as pool:
        working = [pool.submit(work) for _ in range(threads)]
        together.wait()
        began = time.perf_counter()
        for one in working:
            one.result()
        return (time.perf_counter() - began) / (calls // threads * threads) * 1e6


def _calls(manager: InferenceManager, count: int) -> None:
    data = {"value": noop.VALUE}
    for _ in range(count):
        answer = manager.infer(task=noop.NAME, engine=noop.NAME, model_name=noop.NAME, data=data)
        assert answer["success"], answer


BENCHMARK = Benchmark(
    name="call-overhead",
    what="a Python call of a no-op model: microseconds from one thread, and from eight at once",
    targets=[Target(ONE, "<=", 150, "µs"), Target(MANY, "<=", 250, "µs")],
    run=run,
)
