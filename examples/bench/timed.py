"""Tasks and an engine whose requests say how long they take, and whose answers say which version gave them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any

from engines.base import NO_HURRY, BaseEngine, Emit, Urgency
from handlers.base import BaseModelHandler
from streams.messages import Request, encode

ENGINE = "timed"
IN_BATCHES, AS_THEY_COME = "timed", "timed-in-flight"
TASKS = (IN_BATCHES, AS_THEY_COME)
LOAD_S = 0.5
"""How long loading a version takes."""


class TimedHandler(BaseModelHandler):
    """`data`: {seconds}; the result says which version answered."""

    task = IN_BATCHES

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        self.validate_input(data, ["seconds"])
        return data

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return {**result, "metadata": {}}


class TimedEngine(BaseEngine):
    """Takes its time: one request after the other in batches, or all beside each other as they come."""

    name = ENGINE
    needs_files = False
    continuous_tasks = frozenset({AS_THEY_COME})

    def load_model(self, name: str, **kw: Any) -> str:
        time.sleep(LOAD_S)
        return str(kw["version"])

    def infer(self, model: str, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        time.sleep(inputs["seconds"])
        return {"version": model}

    def submit(
        self,
        model: str,
        inputs: dict[str, Any],
        options: dict[str, Any],
        emit: Emit | None = None,
        *,
        urgency: Urgency = NO_HURRY,
    ) -> Future[dict[str, Any]]:
        future: Future[dict[str, Any]] = Future()
        timer = threading.Timer(inputs["seconds"], future.set_result, [{"version": model}])
        timer.daemon = True
        timer.start()
        return future

    def unload_model(self, model: str) -> bool:
        return True


def timed_request(identity: str, task: str, model_name: str, seconds: float) -> bytes:
    """Return a request that takes `seconds`."""
    return encode(Request(task=task, engine=ENGINE, model_name=model_name, id=identity, data={"seconds": seconds}))
