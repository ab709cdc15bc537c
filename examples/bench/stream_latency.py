"""stream-latency: how much longer a request takes from topic to topic than through raw aiokafka."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Self

from aiokafka import AIOKafkaProducer

from examples.bench import noop
from examples.bench.benchmark import Benchmark, Chart, Measurement, Spread, Target, interleaved, percentile
from examples.bench.context import Context
from examples.bench.raw_loop import RawLoop, RawLoopProcess
from examples.bench.stream_share import PRODUCT, RAW, site_of
from streams.settings import KafkaSettings
from streams.topic_reader import TopicReader
from tests.integration.worker_process import WorkerProcess

RATE_PER_S, REQUESTS, ROUNDS = 100, 1_000, 3
_WARM_UP = 100
_PATIENCE_S = 60.0


async def run(context: Context) -> Measurement:
    """Send at a steady rate, to one side after the other; both wait at the same broker all the while."""
    context.register(noop.NAME, noop.TAGS)
    rounds = context.scaled(ROUNDS, quick=1)
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

    async def turn(side: str, latencies_ms: Callable[[int], Awaitable[list[float]]]) -> float:
        taken[side].append(await latencies_ms(count))
        return percentile(taken[side][-1], 50)

    with RawLoopProcess(loop, theirs.directory), WorkerProcess(ours) as worker:
        context.report("both sides join their groups", 0.0)
        await worker.started()
        async with (
            _Line(theirs.settings.kafka, loop.source, loop.target) as raw,
            _Line(
                ours.settings.kafka, ours.topics.requests(noop.NAME), ours.topics.results(noop.NAME)
            ) as product,
        ):
            lines = {RAW: raw, PRODUCT: product}
            for line in lines.values():
                await line.latencies_ms(_WARM_UP)
            sides = {side: functools.partial(turn, side, line.latencies_ms) for side, line in lines.items()}
            await interleaved(sides, rounds, context.turns(rounds))
        worker.terminate()
    return _measurement(taken)


def _measurement(taken: dict[str, list[list[float]]]) -> Measurement:
    by_round = {
        percent: {
            side: [percentile(latencies, percent) for latencies in rounds] for side, rounds in taken.items()
        }
        for percent in (50, 99)
    }
    added = {
        f"p{percent}": Spread.of(
            [ours - theirs for ours, theirs in zip(sides[PRODUCT], sides[RAW], strict=True)]
        )
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
            "the broker holds an empty fetch for 20 ms at most on all sides, the client's own included",
        ],
        details={"ms_by_round": by_round},
    )


class _Line:
    """A client of one side: sends requests at a steady rate and times what comes back."""

    def __init__(self, kafka: KafkaSettings, requests: str, results: str) -> None:
        self._kafka, self._requests, self._results = kafka, requests, results
        self._sent_at: dict[str, float] = {}
        self._latencies_ms: list[float] = []
        self._number = 0

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._producer = AIOKafkaProducer(bootstrap_servers=self._kafka.bootstrap_servers, acks="all")
            await stack.enter_async_context(self._producer)
            self._reader = await stack.enter_async_context(TopicReader(self._kafka, [self._results]))
            self._reading = asyncio.create_task(self._read())
            stack.push_async_callback(asyncio.wait, {self._reading})
            stack.callback(self._reading.cancel)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    async def latencies_ms(self, count: int) -> list[float]:
        """Send `count` requests and return how long each took, in the order in which they came back."""
        self._latencies_ms.clear()
        began = time.perf_counter()
        sent: list[asyncio.Future[object]] = []
        for position in range(count):
            await asyncio.sleep(max(0.0, began + position / RATE_PER_S - time.perf_counter()))
            value = noop.noop_request(self._number)
            self._number += 1
            self._sent_at[json.loads(value)["id"]] = time.perf_counter()
            sent.append(await self._producer.send(self._requests, value))
        await asyncio.gather(*sent)
        async with asyncio.timeout(_PATIENCE_S):
            while len(self._latencies_ms) < count:
                if self._reading.done():
                    self._reading.result()
                await asyncio.sleep(0.01)
        return list(self._latencies_ms)

    async def _read(self) -> None:
        async for record in self._reader.records():
            now = time.perf_counter()
            assert record.value is not None
            sent_at = self._sent_at.pop(json.loads(record.value)["id"])
            self._latencies_ms.append((now - sent_at) * 1000)


BENCHMARK = Benchmark(
    name="stream-latency",
    what=f"no-op engine at {RATE_PER_S} requests/s, Kafka to Kafka; what it adds to raw aiokafka's latency",
    targets=[Target("p50", "<=", 5, "ms"), Target("p99", "<=", 20, "ms")],
    run=run,
)
