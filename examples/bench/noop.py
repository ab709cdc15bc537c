"""A task and an engine that do nothing: what is left is the cost of everything around an engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from engines.base import BaseEngine
from handlers.base import BaseModelHandler
from handlers.errors import InferenceError
from streams.messages import Request, encode

NAME, BATCHED = "noop", "noop-batched"
MODELS = (NAME, BATCHED)
BATCH_S = 0.002
"""How long a batch of the second one takes, however many are in it."""
VALUE = "a request as long as those that name a recording by its address, or ask a short question"
TAGS = {"task": NAME, "engine": NAME}


class NoopHandler(BaseModelHandler):
    """`data`: {value}; the result repeats it."""

    task = NAME

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        self.validate_input(data, ["value"])
        return data

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return {**result, "metadata": {}}


class NoopEngine(BaseEngine):
    """Gives back what it is given."""

    name = NAME
    needs_files = False

    def load_model(self, name: str, **kw: Any) -> str:
        return name

    def infer(self, model: str, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return {"value": inputs["value"]}

    def infer_batch(
        self, model: str, inputs: Sequence[dict[str, Any]], options: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any] | InferenceError]:
        return [{"value": one["value"]} for one in inputs]

    def unload_model(self, model: str) -> bool:
        return True


class BatchedEngine(NoopEngine):
    """Takes its time for a batch."""

    name = BATCHED

    def infer_batch(
        self, model: str, inputs: Sequence[dict[str, Any]], options: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any] | InferenceError]:
        time.sleep(BATCH_S)
        return super().infer_batch(model, inputs, options)


def identity_of(number: int) -> str:
    """Return the id of the request with this number."""
    return f"request-{number:08d}"


def noop_request(number: int) -> bytes:
    """Return a request of about 200 bytes."""
    return encode(
        Request(
            task=NAME,
            engine=NAME,
            model_name=NAME,
            id=identity_of(number),
            data={"value": VALUE},
        )
    )
