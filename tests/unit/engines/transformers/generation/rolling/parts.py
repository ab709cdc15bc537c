"""A tiny model whose runs a test can count, hold back and break, and loops over it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch

from engines.transformers.engine import TransformersEngine
from engines.transformers.generation.runner import TextGenerationRunner
from tests.device import on_this_machine

PATIENCE_S = 60.0

PROMPTS = ["a b c", "d", "e f g h i j k l m n", "o p", "q r s t u", "v w x y z a b c d e f g"]
BUDGETS = [20, 3, 12, 30, 7, 16]

Fault = Callable[[torch.Tensor], Exception | None]
"""Given the token ids of a run, (rows, columns), says what goes wrong with it."""


class Watched:
    """Stands before `model.forward`: keeps the shape of every run, holds runs back, and makes them fail."""

    def __init__(self, model: Any) -> None:
        self.shapes: list[tuple[int, int]] = []
        self.fault: Fault = lambda ids: None
        self._gate: threading.Semaphore | None = None
        self._arrived = threading.Semaphore(0)
        self._forward = model.forward
        model.forward = self

    @property
    def __signature__(self) -> Any:
        import inspect

        return inspect.signature(self._forward)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        ids = named["input_ids"] if named.get("input_ids") is not None else named["inputs_embeds"][:, :, 0]
        self.shapes.append((ids.shape[0], ids.shape[1]))
        self._arrived.release()
        if self._gate is not None:
            assert self._gate.acquire(timeout=PATIENCE_S)
        error = self.fault(ids)
        if error is not None:
            raise error
        return self._forward(*arguments, **named)

    def hold(self) -> None:
        """Let no run begin before `let` allows it; those that came before no longer count as arrived."""
        self._arrived = threading.Semaphore(0)
        self._gate = threading.Semaphore(0)

    def let(self, runs: int) -> None:
        """Let so many runs through."""
        assert self._gate is not None
        for _ in range(runs):
            self._gate.release()

    def go_on(self) -> None:
        """Hold nothing back any more."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.release(1000)

    def arrived(self) -> None:
        """Return once one more run has come to the gate."""
        assert self._arrived.acquire(timeout=PATIENCE_S)


def load(folder: Any, **settings: Any) -> tuple[TextGenerationRunner, Watched]:
    """Return a runner of the model in `folder` and the watch over its runs."""
    engine = TransformersEngine(on_this_machine(**settings))
    runner = engine.load_model("tiny", task="text-generation", path=folder)
    assert isinstance(runner, TextGenerationRunner)
    return runner, Watched(runner.model)


def start(runner: TextGenerationRunner, prompt: str, budget: int, **options: Any) -> Future[dict[str, Any]]:
    """Ask for the answer to one prompt, and return at once."""
    return runner.submit({"inputs": prompt}, {"max_new_tokens": budget, **options})


def text(answer: Future[dict[str, Any]]) -> str:
    """Return the answer's text once it is there."""
    found: str = answer.result(PATIENCE_S)["generated_text"]
    return found


def alone(folder: Any, prompt: str, budget: int) -> str:
    """Return what the library's own generate answers to one prompt, greedily."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        found = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=budget,
            do_sample=False,
            pad_token_id=0,
        )
    whole, asked = (str(tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in (found[0], ids[0]))
    return whole.removeprefix(asked)
