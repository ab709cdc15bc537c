"""generation-poisson: the time to an answer when requests come faster than `generate` alone could serve them."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence

from examples.bench.benchmark import Benchmark, Chart, Measurement, Spread, Target
from examples.bench.context import Context
from examples.bench.generation_burst import ALONE, PIPELINE
from examples.bench.generation_load import (
    COUNT,
    SEED,
    Answer,
    Ask,
    ThroughPipeline,
    both_sides,
    differing,
    mixed_asks,
)

LOAD, ROUNDS = 2.0, 2
_TICK_S = 0.002


async def run(context: Context) -> Measurement:
    """Serve one by one first, which tells how fast requests must come; then let them come to the pipeline."""
    rounds = context.rounds(ROUNDS)
    latencies: dict[str, list[list[float]]] = {PIPELINE: [], ALONE: []}
    means: list[float] = []
    unlike = 0
    async with both_sides(context) as (pipeline, one_by_one):
        asks = mixed_asks(one_by_one.tokenizer, context.scaled(COUNT, quick=3))
        turn = context.turns(rounds)
        for number in range(rounds):
            turn(ALONE, number)
            alone = await asyncio.to_thread(one_by_one.answers, asks)
            service_s = [answer.cpu_s for answer in alone]
            arrivals_s = poisson(len(asks), LOAD / statistics.mean(service_s))
            latencies[ALONE].append(queued(arrivals_s, service_s))
            turn(PIPELINE, number)
            answers, taken_s = await _come_as_they_may(pipeline, asks, arrivals_s)
            latencies[PIPELINE].append(taken_s)
            means.append(statistics.mean(taken_s) / statistics.mean(latencies[ALONE][-1]))
            unlike += differing(answers, alone)
    everything = {side: [one for round_ in rounds_ for one in round_] for side, rounds_ in latencies.items()}
    in_words = ", ".join(f"{side} {statistics.mean(taken):.1f} s" for side, taken in everything.items())
    return Measurement(
        figures={"ratio": Spread.of(means)},
        charts=[Chart("time to the answer, in CPU time", "s", everything, "distribution")],
        notes=[
            f"mean latency: {in_words}",
            "the clock is the CPU time of this process, which skips to the next arrival when there is nothing to do",
            "one by one is a queue with the CPU times that generate took for each request in the same round",
            f"{unlike} of {rounds * len(asks)} answers differ from those of generate",
        ],
        details={"latencies_s": latencies},
    )


def poisson(count: int, rate_per_s: float) -> list[float]:
    """Return the times at which `count` requests come, always the same ones but for the rate."""
    rng = random.Random(SEED)
    times, now = [], 0.0
    for _ in range(count):
        now += rng.expovariate(rate_per_s)
        times.append(now)
    return times


def queued(arrivals_s: Sequence[float], service_s: Sequence[float]) -> list[float]:
    """Return the latencies where one server takes requests in their order."""
    latencies, free_at = [], 0.0
    for arrival, service in zip(arrivals_s, service_s, strict=True):
        free_at = max(free_at, arrival) + service
        latencies.append(free_at - arrival)
    return latencies


class BusyClock:
    """Seconds of this process's CPU, plus those that were skipped because there was nothing to do."""

    def __init__(self, cpu_clock: Callable[[], float] = time.process_time) -> None:
        self._cpu_clock = cpu_clock
        self._began = cpu_clock()
        self._skipped = 0.0

    def now(self) -> float:
        """Return the seconds since the clock was made."""
        return self._cpu_clock() - self._began + self._skipped

    def skip_to(self, moment: float) -> None:
        """Let it be `moment`, unless that is past."""
        self._skipped += max(0.0, moment - self.now())


async def _come_as_they_may(
    pipeline: ThroughPipeline, asks: Sequence[Ask], arrivals_s: Sequence[float]
) -> tuple[list[Answer], list[float]]:
    """Send each request when its time has come, and return the answers and how long each one took."""
    clock = BusyClock()
    under_way = 0
    taken_s = [0.0] * len(asks)

    async def follow(position: int) -> Answer:
        nonlocal under_way
        answer = await pipeline.answer(asks[position])
        taken_s[position] = clock.now() - arrivals_s[position]
        under_way -= 1
        return answer

    tasks = []
    for position, arrival in enumerate(arrivals_s):
        while (left_s := arrival - clock.now()) > 0:
            if under_way == 0:
                clock.skip_to(arrival)
                break
            # Looking at the clock is work of this process too: one busy thread spends no more CPU than time passes.
            await asyncio.sleep(max(_TICK_S, left_s / 2))
        under_way += 1
        tasks.append(asyncio.create_task(follow(position)))
    return list(await asyncio.gather(*tasks)), taken_s


BENCHMARK = Benchmark(
    name="generation-poisson",
    what=f"the same requests coming at {LOAD:g} times one-by-one capacity; mean latency over one-by-one",
    targets=[Target("ratio", "<=", 0.25)],
    run=run,
)
