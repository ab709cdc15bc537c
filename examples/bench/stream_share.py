"""stream-share: requests a second beside raw aiokafka, and beside a loop of aiokafka that does the same work."""

from __future__ import annotations

import functools

from examples.bench import noop
from examples.bench.benchmark import Benchmark, Chart, Measurement, Spread, Target, interleaved, ratios
from examples.bench.context import Context
from examples.bench.kafka_load import fill, produced_per_s, until_committed
from examples.bench.raw_loop import RawLoop, RawLoopProcess
from tests.integration.worker_process import Site, WorkerProcess

REQUESTS, ROUNDS = 120_000, 9
PRODUCT, RAW, SAME_WORK = "inferstream", "raw aiokafka", "aiokafka, same work"


async def run(context: Context) -> Measurement:
    """Let each side work off a topic that was filled before it started, in processes of their own."""
    context.register(noop.NAME, noop.TAGS)
    rounds = context.rounds(ROUNDS)
    count = context.scaled(REQUESTS, quick=200)
    sides = {
        RAW: functools.partial(_loop, context, count, answers=False),
        SAME_WORK: functools.partial(_loop, context, count, answers=True),
        PRODUCT: functools.partial(_product, context, count),
    }
    rates = await interleaved(sides, rounds, context.turns(rounds, sides=len(sides)))
    per_s = {side: Spread.of(those).median for side, those in rates.items()}
    return Measurement(
        figures={
            "share": ratios(rates, PRODUCT, over=RAW),
            "same work": ratios(rates, PRODUCT, over=SAME_WORK),
        },
        charts=[Chart("requests a second", "1/s", rates)],
        notes=[
            f"{PRODUCT} answers {per_s[PRODUCT]:.0f} requests a second, {RAW} passes {per_s[RAW]:.0f} on, "
            f"{SAME_WORK}, answers {per_s[SAME_WORK]:.0f}",
            f"the broker is {context.broker}",
            "requests lie on one partition before a side starts; rates are by the timestamps of what it produced",
        ],
        details={"per_s": rates},
    )


def site_of(context: Context) -> Site:
    """Return a site with one partition whose worker has the no-op engine."""
    return context.site(
        kafka={"partitions": 1},
        worker={"plugins": ["examples.bench.plugins"], "tasks": [noop.NAME]},
        logging={"level": "WARNING"},
    )


async def _product(context: Context, count: int) -> float:
    site = site_of(context)
    await site.create_topics([noop.NAME])
    requests, results = site.topics.requests(noop.NAME), site.topics.results(noop.NAME)
    await fill(site, requests, map(noop.noop_request, range(count)))
    with WorkerProcess(site) as worker:
        await until_committed(site, requests, count)
        if (status := worker.terminate()) != 0:
            raise AssertionError(f"the worker ended with {status}:\n{worker.log[-4000:]}")
    return await produced_per_s(site, results, count)


async def _loop(context: Context, count: int, *, answers: bool) -> float:
    site = site_of(context)
    await site.create_topics([noop.NAME])
    requests, results = site.topics.requests(noop.NAME), site.topics.results(noop.NAME)
    await fill(site, requests, map(noop.noop_request, range(count)))
    loop = RawLoop.like(
        site.settings.kafka,
        group_id=site.settings.kafka.group_id,
        source=requests,
        target=results,
        events=site.topics.events if answers else None,
    )
    with RawLoopProcess(loop, site.directory):
        await until_committed(site, requests, count)
    return await produced_per_s(site, results, count)


BENCHMARK = Benchmark(
    name="stream-share",
    what="no-op engine: JSON request in, result and event out, in-order commits; share of the rate of raw aiokafka, "
    "and of an aiokafka loop that does the same work",
    targets=[Target("share", ">=", 0.30), Target("same work", ">=", 0.8)],
    run=run,
)
