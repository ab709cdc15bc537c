"""Sends the requests to Kafka, over HTTP and from Python, and waits for what comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from examples.demo.cases import Case, answer_of
from streams.client import InferenceClient
from streams.kafka.topic_reader import TopicReader
from streams.kafka.topics import Topics
from streams.local.platform import LocalPlatform
from streams.messages import encode

PATIENCE_S = 240.0
"""Longest wait for all answers; one that has not come by then counts as lost."""

_LOOK_AROUND_S = 0.5
_NO_ID = b"no id"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back for one case."""

    case: Case
    answer: str
    seconds: float
    """From sending the request to having its outcome."""
    problem: str | None
    """What is wrong with it; None where it is as it must be."""


async def outcomes_of(
    platform: LocalPlatform, cases: Sequence[Case], tell: Callable[[Outcome], None]
) -> list[Outcome | None]:
    """Send every case at once and return what came back for each, None where nothing did.

    `tell` hears of each as it comes.

    Raises:
        StackError: a part of the platform died meanwhile.
    """
    kafka, topics = platform.settings.kafka, Topics(platform.settings.kafka.topic_prefix)
    tasks = sorted({case.request.task for case in cases})
    undecodable = sorted({case.request.task for case in cases if case.raw is not None})
    async with (
        TopicReader(kafka, [topics.dead_letters(task) for task in undecodable]) as dead_letters,
        InferenceClient(kafka, tasks=tasks) as client,
        httpx.AsyncClient(base_url=platform.http_url, timeout=PATIENCE_S) as http,
    ):

        async def follow(case: Case) -> Outcome:
            began = time.monotonic()
            try:
                if case.raw is not None:
                    answer, problem = await _dead_letter(client, dead_letters, case)
                elif case.way == "http":
                    answer, problem = _judged(case, await _over_http(http, case))
                elif case.way == "python":
                    answer, problem = _judged(case, await asyncio.to_thread(_from_python, case))
                else:
                    answer, problem = _judged(case, await _over_kafka(client, case))
            except Exception as error:  # noqa: BLE001 - shown beside the case, which then fails the demo
                answer, problem = "", f"{type(error).__name__}: {error}"
            outcome = Outcome(case, answer, time.monotonic() - began, problem)
            tell(outcome)
            return outcome

        # No task group: it would wrap the StackError that says which part died.
        running = [asyncio.create_task(follow(case)) for case in cases]
        waiting, late = set(running), time.monotonic() + PATIENCE_S
        try:
            while waiting and time.monotonic() < late:
                _, waiting = await asyncio.wait(waiting, timeout=_LOOK_AROUND_S)
                platform.check()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    return [None if task.cancelled() else task.result() for task in running]


async def _over_kafka(client: InferenceClient, case: Case) -> dict[str, Any]:
    result = await client.infer(case.request, key=case.request.id.encode(), timeout_s=PATIENCE_S)
    answer: dict[str, Any] = msgspec.to_builtins(result)
    return answer


async def _over_http(http: httpx.AsyncClient, case: Case) -> dict[str, Any]:
    if case.upload is None:
        response = await http.post("/inference/infer", content=encode(case.request))
    else:
        response = await http.post(
            "/inference/infer",
            data={"request": encode(case.request).decode()},
            files={"audio": (case.upload.name, case.upload.content)},
        )
    answer: dict[str, Any] = response.json()
    return answer


def _from_python(case: Case) -> dict[str, Any]:
    from engines import inference_manager

    request = case.request
    return inference_manager.infer(
        task=request.task,
        engine=request.engine,
        model_name=request.model_name,
        data=request.data,
        options=request.options,
    )


def _judged(case: Case, result: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the answer in a result and what is wrong with it."""
    if result["success"]:
        return answer_of(result["result"]), case.problem_of_answer(result["result"])
    error = result["error"]
    return error["message"], case.problem_of_error(error["code"], error["message"])


async def _dead_letter(client: InferenceClient, dead_letters: TopicReader, case: Case) -> tuple[str, str | None]:
    await client.send_bytes(case.request.task, case.raw, key=_NO_ID)
    async for record in dead_letters.records():
        if record.key == _NO_ID:
            headers = {name: value.decode() for name, value in record.headers}
            message = headers["__dlq.errors.message"]
            problem = case.problem_of_error(headers["__dlq.errors.exception.class"], message)
            if record.value != case.raw:
                problem = "the dead letter does not hold what was sent"
            return f"dead letter: {message}", problem
    raise AssertionError("reading a topic never ends by itself")
