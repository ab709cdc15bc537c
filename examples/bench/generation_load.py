"""What the generation benchmarks share: the requests, the pipeline's side, and `generate` one by one."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engines.transformers.device import prepare_torch
from examples.bench.context import Context
from streams.messages import Request
from streams.pipeline.pipeline import Pipeline
from streams.pipeline.runtime import open_runtime

MODEL = "smollm2-135m-instruct"
COUNT, SEED = 30, 5
PROMPT_TOKENS, BUDGETS = (10, 200), (8, 128)

_CLOSING = "Tell a long story in which all of this comes to pass."
_PASSAGE = (
    "At the edge of the marsh there is a mill that nobody has run for years. The wheel still turns when the river is "
    "high, and people who walk past at night say that they hear it grinding. In spring a woman with two dogs moved in, "
    "mended the roof and painted the door green. She asked the baker what he would pay for flour, and he laughed, "
    "because he had a contract with the city until the end of the century. So she bought a cart, loaded it with what "
    "she had, and went from farm to farm. By the second winter she knew every family in the valley, the names of "
    "their children, which of the bridges could be trusted and which dog would bite. When the flood came, it was to "
    "her that they sent for help, and it was her cart that brought the old and the sick up to the chapel on the hill. "
    "The baker stood in the door of his shop with water to his knees and watched his contract float down the street. "
)


@dataclass(frozen=True, slots=True)
class Ask:
    """One text to be continued by at most `budget` tokens."""

    text: str
    budget: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it, and the seconds of this process's CPU that went by until then."""

    text: str
    tokens: int
    cpu_s: float


def mixed_asks(tokenizer: Any, count: int) -> list[Ask]:
    """Return requests of mixed lengths and budgets, always the same ones."""
    rng = random.Random(SEED)
    passage = tokenizer(_PASSAGE)["input_ids"]
    closing = len(tokenizer(_CLOSING)["input_ids"])
    asks = []
    for _ in range(count):
        length = max(0, rng.randint(*PROMPT_TOKENS) - closing)
        start = rng.randrange(len(passage) - length)
        text = tokenizer.decode(passage[start : start + length]).strip()
        asks.append(Ask(f"{text} {_CLOSING}", rng.randint(*BUDGETS)))
    return asks


class OneByOne:
    """The baseline: the same weights under transformers' `generate`, one request after the other."""

    def __init__(self, folder: Path) -> None:
        prepare_torch(1)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)

    def tokens_of(self, ask: Ask) -> Any:
        """Return the prompt as `generate` takes it, through the chat template."""
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": ask.text}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )

    def answer(self, ask: Ask) -> Answer:
        """Return the greedy answer."""
        began = time.process_time()
        prompt = self.tokens_of(ask)
        with torch.inference_mode():
            found = self.model.generate(**prompt, do_sample=False, max_new_tokens=ask.budget)
        new = found[0, prompt["input_ids"].shape[1] :]
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        return Answer(text, len(new), time.process_time() - began)

    def answers(self, asks: Sequence[Ask]) -> list[Answer]:
        """Return the greedy answers, one after the other."""
        return [self.answer(ask) for ask in asks]


class ThroughPipeline:
    """Our side: requests as a worker answers them, from checks to finished results, but for Kafka."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def answer(self, ask: Ask) -> Answer:
        """Return the greedy answer.

        Raises:
            RuntimeError: the request failed.
        """
        began = time.process_time()
        request = Request(
            task="text-generation",
            engine="transformers",
            model_name=MODEL,
            data={"inputs": ask.text},
            options={"max_new_tokens": ask.budget, "do_sample": False},
            id="bench",
        )
        result = await self._pipeline.answer(request)
        if result.result is None:
            raise RuntimeError(f"{result.error}")
        output = result.result
        tokens = output["metadata"]["completion_tokens"]
        return Answer(output["generated_text"], tokens, time.process_time() - began)


@asynccontextmanager
async def both_sides(context: Context) -> AsyncIterator[tuple[ThroughPipeline, OneByOne]]:
    """Load the model for both sides, each with one thread of torch, and warm them up."""
    folder = context.prepared_model(MODEL)
    settings = context.site(transformers={"threads": 1, "device": "cpu"}).settings
    context.report("loading the model twice", 0.0)
    one_by_one = OneByOne(folder)
    async with open_runtime(settings) as runtime:
        await runtime.warm([MODEL])
        pipeline = ThroughPipeline(runtime.pipeline)
        for ask in mixed_asks(one_by_one.tokenizer, 2):
            short = Ask(ask.text, 4)
            await pipeline.answer(short)
            one_by_one.answer(short)
        yield pipeline, one_by_one


def differing(ours: Sequence[Answer], theirs: Sequence[Answer]) -> int:
    """Return how many answers differ in their text."""
    return sum(one.text != other.text for one, other in zip(ours, theirs, strict=True))
