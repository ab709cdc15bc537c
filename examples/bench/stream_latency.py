"""stream-latency: how much longer a request takes from topic to topic than through raw aiokafka."""

from __future__ import annotations

import functools

from examples.bench import noop
from examples.bench.benchmark import Benchmark, Chart, Measurement, Spread, Target, interleaved, percentile
from examples.bench.context import Context
from examples.bench.raw_loop import RawLoop, RawLoopProcess
from examples.bench.stopwatch import Stopwatch
from examples.bench.stream_share import PRODUCT, RAW, site_of
from tests.integration.worker_process import WorkerProcess

RATE_PER_S, REQUESTS, ROUNDS = 100, 1_000, 3
_WARM_UP = 100


async def run(context: Context) -> Measurement:
    """Send at a steady rate, to one side after the other; both wait at the same broker all the while."""
    context.register(noop.NAME, noop.TAGS)
    rounds = context.rounds(ROUNDS)
    count = context.scaled(REQUESTS, quick=50)
    ours, theirs = site_of(context), site_of(context)
    for site in (ours, theirs):
        await site.create_topics([noop.NAME])
    loop = RawLoop.like(
        theirs.settings.kafka,
        group_id=theirs.settings.kafka.group_id,
        source=theirs.topics.requests(noop.NAME),
        target=theirs.topics.results(noop.NAME),
    )
    taken: dict[str, list[list[float]]] = {PRODUCT: [], RAW: []}

    async def turn(side: str, stopwatch: Stopwatch) -> float:
        taken[side].append(await _latencies_ms(stopwatch, count))
        return percentile(taken[side][-1], 50)

    with RawLoopProcess(loop, theirs.directory), WorkerProcess(ours) as worker:
        context.report("both sides join their groups", 0.0)
        await worker.started()
        async with (
            Stopwatch(theirs.settings.kafka, loop.source, loop.target) as raw,
            Stopwatch(ours.settings.kafka, ours.topics.requests(noop.NAME), ours.topics.results(noop.NAME)) as product,
        ):
            stopwatches = {RAW: raw, PRODUCT: product}
            for stopwatch in stopwatches.values():
                await _latencies_ms(stopwatch, _WARM_UP)
            sides = {side: functools.partial(turn, side, one) for side, one in stopwatches.items()}
            await interleaved(sides, rounds, context.turns(rounds))
        worker.terminate()
    longest_wait_ms = ours.settings.kafka.fetch_max_wait_ms
    return _measurement(
        taken, f"the broker is {context.broker}; it holds an empty fetch for {longest_wait_ms} ms at most"
    )


def _measurement(taken: dict[str, list[list[float]]], broker: str) -> Measurement:
    by_round = {
        percent: {side: [percentile(latencies, percent) for latencies in rounds] for side, rounds in taken.items()}
        for percent in (50, 99)
    }
    added = {
        f"p{percent}": Spread.of([ours - theirs for ours, theirs in zip(sides[PRODUCT], sides[RAW], strict=True)])
        for percent, sides in by_round.items()
    }
    everything = {side: [one for latencies in rounds for one in latencies] for side, rounds in taken.items()}
    absolute = ", ".join(
        f"{side} {percentile(latencies, 50):.1f} / {percentile(latencies, 99):.1f} ms"
        for side, latencies in everything.items()
    )
    return Measurement(
        figures=added,
        charts=[Chart(f"latency at {RATE_PER_S} requests/s", "ms", everything, "distribution")],
        notes=[
            f"p50 / p99 from being sent to being read by the client: {absolute}",
            f"{broker} on all sides, the client's own included",
        ],
        details={"ms_by_round": by_round},
    )


async def _latencies_ms(stopwatch: Stopwatch, count: int) -> list[float]:
    """Send `count` requests and return how long each one took."""
    numbers = range(len(stopwatch.answers), len(stopwatch.answers) + count)
    requests = {noop.identity_of(number): noop.noop_request(number) for number in numbers}
    await stopwatch.send_evenly(requests.items(), rate_per_s=RATE_PER_S)
    return [answer.ms for answer in await stopwatch.answered(requests)]


BENCHMARK = Benchmark(
    name="stream-latency",
    what=f"no-op engine at {RATE_PER_S} requests/s, Kafka to Kafka; what it adds to raw aiokafka's latency",
    targets=[Target("p50", "<=", 5, "ms"), Target("p99", "<=", 20, "ms")],
    run=run,
)
