"""Tasks and an engine that raise what no code should, never come back, or end the process, as a request asks for it.

`data`: {value, media?, raises?: {WHERE: KIND}, hangs?: [WHERE], kills?: {WHERE: segfault | memory}, blocks?: {WHERE:
SECONDS}}; WHERE is preprocess, infer, postprocess, submit, future (that of `submit`) or emit; KIND one of `KINDS`. A
model called `load-KIND` raises that when it is loaded, `unload-KIND` when it is unloaded; `load-hangs` and
`unload-hangs` never come back from there.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import Any, ClassVar

from engines.base import NO_HURRY, BaseEngine, Emit, Urgency
from handlers.base import BaseModelHandler


class Panic(BaseException):
    """Stands for pyo3's PanicException, which is no Exception either."""


KINDS: dict[str, type[BaseException]] = {
    "panic": Panic,
    "cancelled": asyncio.CancelledError,
    "generator-exit": GeneratorExit,
    "system-exit": SystemExit,
    "interrupt": KeyboardInterrupt,
    "stop": StopIteration,
    "error": RuntimeError,
}

FOREVER = threading.Event()
"""What a call waits for that never comes back; a test that is over sets it, to let its threads go."""


def misbehave(where: str, asked: dict[str, Any]) -> None:
    """Do what a request asks for at that place."""
    if where in asked.get("hangs", ()):
        FOREVER.wait()
        return
    if where in asked.get("kills", {}):
        os.kill(os.getpid(), signal.SIGSEGV if asked["kills"][where] == "segfault" else signal.SIGKILL)
    if where in asked.get("blocks", {}):
        # As native code does that keeps the interpreter's lock: no other thread of the process runs meanwhile.
        ctypes.PyDLL(None).usleep(int(asked["blocks"][where] * 1e6))
    kind = asked.get("raises", {}).get(where)
    if kind is not None:
        raise KINDS[kind](f"{kind} in {where}")


class UnrulyHandler(BaseModelHandler):
    """Passes everything on."""

    task = "unruly"

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        misbehave("preprocess", data)
        return {**data, "media": None}

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        misbehave("postprocess", result["asked"])
        return {"value": result["asked"]["value"], "metadata": {}}


class UnrulyMediaHandler(UnrulyHandler):
    """The same with media, so that it runs in threads."""

    task = "unruly-media"
    media_fields: ClassVar[tuple[str, ...]] = ("media",)


class UnrulyTextsHandler(UnrulyHandler):
    """The same for requests that are started one by one."""

    task = "unruly-texts"


class UnrulyEngine(BaseEngine):
    """Echoes, or does what no engine should."""

    name = "unruly"
    needs_files = False
    supported_tasks = frozenset({"unruly", "unruly-media", "unruly-texts"})
    continuous_tasks = frozenset({"unruly-texts"})

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.batches: list[list[Any]] = []

    def load_model(self, name: str, **kw: Any) -> str:
        self.loads.append(name)
        if name == "load-hangs-once":
            if self.loads.count(name) == 1:
                FOREVER.wait()
            return name
        _at(name, "load-")
        return name

    def infer(self, model: str, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        misbehave("infer", inputs)
        return {"asked": inputs}

    def infer_batch(self, model: str, inputs: Any, options: Any) -> list[Any]:
        """Run them one after the other, and let what one raises cost the whole batch."""
        self.batches.append([one["value"] for one in inputs])
        if len(inputs) == 1:
            misbehave("infer", {"hangs": inputs[0].get("hangs_alone", ())})
        return [self.infer(model, one, its) for one, its in zip(inputs, options, strict=True)]

    def submit(
        self,
        model: str,
        inputs: dict[str, Any],
        options: dict[str, Any],
        emit: Emit | None = None,
        *,
        urgency: Urgency = NO_HURRY,
    ) -> Future[dict[str, Any]]:
        misbehave("submit", inputs)
        answer: Future[dict[str, Any]] = Future()
        if "future" in inputs.get("hangs", ()):
            return answer
        if "pieces" in inputs:
            growing = partial(_grow, answer, emit, inputs)
            threading.Thread(target=growing, daemon=True).start()
            return answer
        kind = inputs.get("raises", {}).get("future")
        if kind is not None:
            answer.set_exception(KINDS[kind](f"{kind} in future"))
        else:
            answer.set_result({"asked": inputs})
        return answer

    def unload_model(self, model: str) -> bool:
        _at(model, "unload-")
        self.unloads.append(model)
        return True


def _grow(answer: Future[dict[str, Any]], emit: Emit | None, inputs: dict[str, Any]) -> None:
    for number in range(inputs["pieces"]):
        time.sleep(inputs["pause_s"])
        if emit is not None:
            emit(str(number))
    answer.set_result({"asked": inputs})


def _at(model: str, place: str) -> None:
    what = model.removeprefix(place)
    if what == model:
        return
    if what == "hangs":
        FOREVER.wait()
        return
    raise KINDS[what](f"{what} in {place}")


HANDLERS = {handler.task: handler for handler in (UnrulyHandler, UnrulyMediaHandler, UnrulyTextsHandler)}
"""By task. Importing this module registers none: tests in this process are not to meet them unawares."""
