"""generation-vs-hf: tokens a second over transformers' own continuous batching, under the same load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from examples.bench.benchmark import Benchmark, Chart, Measurement, Spread, Target, interleaved, ratios
from examples.bench.context import Context
from examples.bench.generation_load import COUNT, Answer, Ask, OneByOne, both_sides, differing, mixed_asks

ROUNDS = 3
PIPELINE, MANAGER = "pipeline", "transformers' manager"
_PAGES, _PAGE_TOKENS, _BATCH_TOKENS = 512, 32, 512
"""Room for 16 384 tokens of cache, all requests at once, where the default would take 60 % of the memory."""

_PATIENCE_S = 600.0


async def run(context: Context) -> Measurement:
    """Answer the same requests by both sides, in this process and on its CPU time."""
    rounds = context.rounds(ROUNDS)
    answers: dict[str, list[Answer]] = {}
    async with both_sides(context) as (pipeline, one_by_one):
        asks = mixed_asks(one_by_one.tokenizer, context.scaled(COUNT, quick=3))
        prompts = [one_by_one.tokens_of(ask)["input_ids"][0].tolist() for ask in asks]

        async def ours() -> float:
            began = time.process_time()
            answers[PIPELINE] = await asyncio.gather(*map(pipeline.answer, asks))
            return sum(answer.tokens for answer in answers[PIPELINE]) / (time.process_time() - began)

        async def theirs() -> float:
            answers[MANAGER], cpu_s = await asyncio.to_thread(_managed, one_by_one, prompts, asks)
            return sum(answer.tokens for answer in answers[MANAGER]) / cpu_s

        rates = await interleaved({MANAGER: theirs, PIPELINE: ours}, rounds, context.turns(rounds))
    unlike = differing(answers[PIPELINE], answers[MANAGER])
    return Measurement(
        figures={"ratio": ratios(rates, PIPELINE, over=MANAGER)},
        charts=[Chart("tokens a second of CPU time", "1/s", rates)],
        notes=[
            f"{Spread.of(rates[PIPELINE]).median:.1f} and {Spread.of(rates[MANAGER]).median:.1f} tokens a second, "
            "one thread of torch, by the CPU time of the process",
            f"{unlike} of {len(asks)} answers differ",
        ],
        details={"tokens_per_cpu_s": rates, "differing_answers": unlike},
    )


def _managed(side: OneByOne, prompts: Sequence[list[int]], asks: Sequence[Ask]) -> tuple[list[Answer], float]:
    """Return the answers of a fresh manager, and the CPU seconds from the first request to the last answer.

    Its loop dies of one bad request, after which it takes none and says so only by returning None: both are
    looked at.
    """
    own = side.model.generation_config
    manager = side.model.init_continuous_batching(
        generation_config=GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            block_size=_PAGE_TOKENS, num_blocks=_PAGES, max_batch_tokens=_BATCH_TOKENS
        ),
    )
    manager.start()
    try:
        _add(manager, "warm-up", prompts[0], 2)
        _collected(manager, 1)
        began = time.process_time()
        for number, (prompt, ask) in enumerate(zip(prompts, asks, strict=True)):
            _add(manager, str(number), prompt, ask.budget)
        found = _collected(manager, len(asks))
        cpu_s = time.process_time() - began
    finally:
        manager.stop(block=True, hard_stop=True)
    tokens = [found[str(number)] for number in range(len(asks))]
    return [Answer(side.tokenizer.decode(one, skip_special_tokens=True), len(one), cpu_s) for one in tokens], cpu_s


def _add(manager: Any, identity: str, prompt: list[int], budget: int) -> None:
    if manager.add_request(prompt, request_id=identity, max_new_tokens=budget) is None:
        raise RuntimeError(f"the manager takes no requests: {manager.background_thread_status.fatal_error}")


def _collected(manager: Any, count: int) -> dict[str, list[int]]:
    """Return the tokens of the next `count` answers by id."""
    tokens: dict[str, list[int]] = {}
    late = time.monotonic() + _PATIENCE_S
    while len(tokens) < count:
        output = manager.get_result(timeout=1.0)
        if output is None:
            if not manager.is_running() or time.monotonic() > late:
                raise RuntimeError(f"the manager stopped: {manager.background_thread_status.fatal_error}")
            continue
        if output.error:
            raise RuntimeError(f"request {output.request_id} failed: {output.error}")
        tokens[output.request_id] = list(output.generated_tokens)
    return tokens


BENCHMARK = Benchmark(
    name="generation-vs-hf",
    what=f"the {COUNT} requests of generation-burst; tokens/s over transformers' continuous batching",
    targets=[Target("ratio", ">=", 1.1)],
    run=run,
)
