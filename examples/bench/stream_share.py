"""stream-share: how much of raw aiokafka's throughput is left once everything around an engine is done."""

from __future__ import annotations

import functools

from examples.bench import noop
from examples.bench.benchmark import Benchmark, Chart, Measurement, Spread, Target, interleaved, ratios
from examples.bench.context import Context
from examples.bench.kafka_load import fill, produced_per_s, until_committed
from examples.bench.raw_loop import RawLoop, RawLoopProcess
from tests.integration.worker_process import Site, WorkerProcess

REQUESTS, ROUNDS = 120_000, 9
PRODUCT, RAW = "inferstream", "raw aiokafka"


async def run(context: Context) -> Measurement:
    """Let each side work off a topic that was filled before it started, in processes of their own."""
    context.register(noop.NAME, noop.TAGS)
    rounds = context.rounds(ROUNDS)
    sides = {
        RAW: functools.partial(_raw, context, context.scaled(REQUESTS, quick=200)),
        PRODUCT: functools.partial(_product, context, context.scaled(REQUESTS, quick=200)),
    }
    rates = await interleaved(sides, rounds, context.turns(rounds))
    share = ratios(rates, PRODUCT, over=RAW)
    return Measurement(
        figures={"share": share},
        charts=[Chart("requests a second", "1/s", rates)],
        notes=[
            f"{PRODUCT} answers {Spread.of(rates[PRODUCT]).median:.0f} requests a second, "
            f"{RAW} passes {Spread.of(rates[RAW]).median:.0f} on",
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


async def _raw(context: Context, count: int) -> float:
    site = site_of(context)
    await site.create_topics([noop.NAME])
    requests, results = site.topics.requests(noop.NAME), site.topics.results(noop.NAME)
    await fill(site, requests, map(noop.noop_request, range(count)))
    loop = RawLoop.like(
        site.settings.kafka, group_id=site.settings.kafka.group_id, source=requests, target=results
    )
    with RawLoopProcess(loop, site.directory):
        await until_committed(site, requests, count)
    return await produced_per_s(site, results, count)


BENCHMARK = Benchmark(
    name="stream-share",
    what="no-op engine: JSON request in, result and event out, in-order commits; share of raw aiokafka's rate",
    targets=[Target("share", ">=", 0.30)],
    run=run,
)
