"""head-of-line: what short requests pay for a slow one before them on their partition."""

from __future__ import annotations

import functools
import uuid

from examples.bench import timed
from examples.bench.benchmark import Benchmark, Chart, Measurement, Target, interleaved, percentile, ratios
from examples.bench.context import Context
from examples.bench.stopwatch import Stopwatch
from tests.integration.worker_process import Site, WorkerProcess

SHORT_REQUESTS, SHORT_S, SLOW_S, RATE_PER_S, ROUNDS = 200, 0.02, 30.0, 20.0, 2
_SLOW_COMES_AFTER = 10
WITH, WITHOUT = "with a slow one", "without"
MODELS = {timed.IN_BATCHES: ("timed", "timed-slow"), timed.AS_THEY_COME: ("flowing", "flowing")}
"""Task -> the model of the short requests and that of the slow one: in batches, one model does one thing at a time."""
FIGURES = {timed.IN_BATCHES: "another model", timed.AS_THEY_COME: "same model, in flight"}


async def run(context: Context) -> Measurement:
    """Send short requests at a steady rate, with and without one that takes 30 s among them."""
    for task, names in MODELS.items():
        for name in names:
            context.register(name, {"task": task, "engine": timed.ENGINE})
    rounds = context.rounds(ROUNDS)
    p95_ms: dict[str, dict[str, list[float]]] = {}
    taken_ms: dict[str, list[float]] = {}
    site = context.site(
        kafka={"partitions": 1},
        worker={"plugins": ["examples.bench.plugins"], "tasks": list(timed.TASKS), "max_in_flight": 256},
        logging={"level": "WARNING"},
    )
    await site.create_topics(timed.TASKS)
    with WorkerProcess(site) as worker:
        await worker.started()
        for task in timed.TASKS:
            side = functools.partial(_p95_ms, context, site, task, taken_ms)
            sides = {WITHOUT: functools.partial(side, False), WITH: functools.partial(side, True)}
            p95_ms[task] = await interleaved(sides, rounds, context.turns(rounds))
        worker.terminate()
    return Measurement(
        figures={figure: ratios(p95_ms[task], WITH, over=WITHOUT) for task, figure in FIGURES.items()},
        charts=[Chart("time to the answer of short requests", "ms", taken_ms, "distribution")],
        notes=[
            f"{FIGURES[task]}: p95 {percentile(taken_ms[_label(task, False)], 95):.0f} ms without, "
            f"{percentile(taken_ms[_label(task, True)], 95):.0f} ms with"
            for task in timed.TASKS
        ],
        details={"p95_ms": p95_ms},
    )


async def _p95_ms(context: Context, site: Site, task: str, taken_ms: dict[str, list[float]], has_slow: bool) -> float:
    """Return the p95 of the short requests, which must all be answered, as must the slow one."""
    model, slow_model = MODELS[task]
    turn = uuid.uuid4().hex[:8]
    slow, slow_s = f"{turn}-slow", 2.0 if context.is_quick else SLOW_S
    short = [f"{turn}-{number}" for number in range(context.scaled(SHORT_REQUESTS, quick=30))]
    every = [(identity, timed.timed_request(identity, task, model, SHORT_S)) for identity in short]
    if has_slow:
        every.insert(_SLOW_COMES_AFTER, (slow, timed.timed_request(slow, task, slow_model, slow_s)))
    async with Stopwatch(site.settings.kafka, site.topics.requests(task), site.topics.results(task)) as stopwatch:
        warm = {
            f"{turn}-{name}": timed.timed_request(f"{turn}-{name}", task, name, 0.0) for name in {model, slow_model}
        }
        await stopwatch.send_evenly(warm.items(), rate_per_s=RATE_PER_S)
        await stopwatch.answered(warm)
        await stopwatch.send_evenly(every, rate_per_s=RATE_PER_S)
        taken = [answer.ms for answer in await stopwatch.answered(short)]
        if has_slow:
            await stopwatch.answered([slow])
    taken_ms.setdefault(_label(task, has_slow), []).extend(taken)
    return percentile(taken, 95)


def _label(task: str, has_slow: bool) -> str:
    return f"{FIGURES[task]}, {WITH if has_slow else WITHOUT}"


BENCHMARK = Benchmark(
    name="head-of-line",
    what=f"one {SLOW_S:g} s request among {SHORT_REQUESTS} short ones on one partition; "
    "p95 of the short ones over a run without it",
    targets=[Target(figure, "<=", 1.3) for figure in FIGURES.values()],
    run=run,
)
