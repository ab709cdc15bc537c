"""generation-burst: tokens a second when many requests come at once, over `generate` one by one."""

from __future__ import annotations

import asyncio
import time

from examples.bench.benchmark import Benchmark, Chart, Measurement, Spread, Target, interleaved, ratios
from examples.bench.context import Context
from examples.bench.generation_load import COUNT, Answer, both_sides, differing, mixed_asks

ROUNDS = 2
PIPELINE, ALONE = "pipeline", "one by one"


async def run(context: Context) -> Measurement:
    """Answer the same requests by both sides; each side's clock is the CPU time of this process."""
    rounds = context.rounds(ROUNDS)
    answers: dict[str, list[Answer]] = {}
    wall_s: dict[str, list[float]] = {PIPELINE: [], ALONE: []}
    async with both_sides(context) as (pipeline, one_by_one):
        asks = mixed_asks(one_by_one.tokenizer, context.scaled(COUNT, quick=3))

        async def ours() -> list[Answer]:
            return await asyncio.gather(*map(pipeline.answer, asks))

        async def theirs() -> list[Answer]:
            return await asyncio.to_thread(one_by_one.answers, asks)

        async def rate(side: str) -> float:
            began, began_cpu = time.monotonic(), time.process_time()
            answers[side] = await (ours() if side == PIPELINE else theirs())
            wall_s[side].append(time.monotonic() - began)
            return sum(answer.tokens for answer in answers[side]) / (time.process_time() - began_cpu)

        sides = {ALONE: lambda: rate(ALONE), PIPELINE: lambda: rate(PIPELINE)}
        rates = await interleaved(sides, rounds, context.turns(rounds))
    by_wall = ratios(wall_s, ALONE, over=PIPELINE)
    unlike = differing(answers[PIPELINE], answers[ALONE])
    return Measurement(
        figures={"ratio": ratios(rates, PIPELINE, over=ALONE)},
        charts=[Chart("tokens a second of CPU time", "1/s", rates)],
        notes=[
            f"{len(asks)} requests, {sum(answer.tokens for answer in answers[PIPELINE])} tokens: "
            f"{Spread.of(rates[PIPELINE]).median:.1f} and {Spread.of(rates[ALONE]).median:.1f} a second",
            f"one thread of torch and the CPU time of the process as clock; by the wall clock {by_wall.median:.2f}",
            f"{unlike} of {len(asks)} answers differ from those of generate",
        ],
        details={"tokens_per_cpu_s": rates, "wall_s": wall_s, "differing_answers": unlike},
    )


BENCHMARK = Benchmark(
    name="generation-burst",
    what=f"SmolLM2, {COUNT} mixed requests at once through the pipeline; tokens/s over one-by-one generate",
    targets=[Target("ratio", ">=", 3.0)],
    run=run,
)
