"""The client in somebody's service: what its calls say, and that it changes nothing around it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from streams.client import InferenceClient
from streams.client_errors import (
    ClientClosed,
    ClientError,
    NoAnswer,
    OtherLoop,
    RequestNotSent,
    RequestsUnanswered,
    TaskNotOpened,
)
from streams.kafka.connection import BrokerUnavailable
from streams.kafka.topic_admin import create_topics
from streams.kafka.topics import Topics
from streams.messages import Request, Result
from streams.settings import KafkaSettings
from tests.integration.client.echo import PATIENCE_S, ask, echo


async def test_a_timeout_says_what_was_waited_for(kafka: KafkaSettings) -> None:
    async with InferenceClient(kafka, tasks=["echo"]) as client:
        with pytest.raises(NoAnswer) as unseen:
            await client.infer(ask("r1"), timeout_s=2)
        async with echo(kafka, lambda identity: identity == "r2"):
            await client.infer(ask("r2"), timeout_s=PATIENCE_S)
            with pytest.raises(TimeoutError) as seen:
                await client.infer(ask("r3"), timeout_s=2)
    assert unseen.value.request_id == "r1"
    for part in (
        "r1",
        Topics(kafka.topic_prefix).results("echo"),
        "2 s",
        "none came since the client was opened",
    ):
        assert part in str(unseen.value)
    assert "the latest of any request came" in str(seen.value)


async def test_a_task_that_it_was_not_opened_for_is_an_error_at_once_and_may_still_be_sent(
    kafka: KafkaSettings,
) -> None:
    await create_topics(kafka, ["other"])
    async with InferenceClient(kafka, tasks=["echo"]) as client:
        with pytest.raises(TaskNotOpened, match="'other'"):
            await client.infer(ask(task="other"))
        with pytest.raises(TaskNotOpened, match="reply_to"):
            await client.infer(ask(reply_to="elsewhere"))
        with pytest.raises(TaskNotOpened):
            async for _ in client.infer_many([ask(), ask(task="other")]):
                pass
        with pytest.raises(TaskNotOpened):
            async for _ in client.infer_many(iter([ask(task="other")])):
                pass
        assert await client.send(ask("x", task="other")) == "x"


async def test_what_the_broker_refuses_is_an_error_of_the_clients_own(kafka: KafkaSettings) -> None:
    small = kafka.model_copy(update={"max_message_bytes": 10_000, "producer_timeout_s": 2.0})
    async with InferenceClient(small, tasks=["echo"]) as client:
        with pytest.raises(
            RequestNotSent,
            match=r"requests\.echo does not take request r1: it is larger than kafka\.max_message_bytes",
        ):
            await client.infer(ask("r1", metadata={"x": "x" * 20_000}), timeout_s=PATIENCE_S)


async def test_closing_ends_calls_that_wait(kafka: KafkaSettings) -> None:
    async with InferenceClient(kafka, tasks=["echo"]) as client:
        calls = [asyncio.create_task(client.infer(ask(), timeout_s=PATIENCE_S)) for _ in range(3)]
        expected = client.expect("never")
        await client.send(ask())
    for ended in await asyncio.gather(*calls, expected, return_exceptions=True):
        assert isinstance(ended, ClientClosed)
    with pytest.raises(ClientClosed):
        await client.infer(ask(), timeout_s=PATIENCE_S)


async def test_a_client_is_opened_once_and_says_so_and_may_be_closed_again(kafka: KafkaSettings) -> None:
    client = InferenceClient(kafka, tasks=["echo"])
    for use in (client.infer(ask()), client.send(ask()), client.send_bytes("echo", b"x")):
        with pytest.raises(ClientClosed, match="not open"):
            await use
    with pytest.raises(ClientClosed, match="not open"):
        client.expect("x")
    await client.__aexit__(None, None, None)
    away = InferenceClient(kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"}), tasks=["echo"])
    for _ in range(2):  # what could not be opened may be tried again
        with pytest.raises(BrokerUnavailable):
            await away.__aenter__()
    async with client:
        with pytest.raises(ClientError, match="opened once"):
            await client.__aenter__()
        assert await client.send(ask("still open")) == "still open"
    await client.__aexit__(None, None, None)
    with pytest.raises(ClientError, match="opened once"):
        await client.__aenter__()
    for use in (client.infer(ask()), client.send(ask())):
        with pytest.raises(ClientClosed, match="was closed"):
            await use


async def test_tasks_of_one_loop_share_a_client_and_other_threads_are_told(kafka: KafkaSettings) -> None:
    async with InferenceClient(kafka, tasks=["echo"]) as client, echo(kafka):

        async def call() -> Result:
            return await client.infer(ask(), timeout_s=PATIENCE_S)

        def elsewhere(use: Callable[[], Coroutine[Any, Any, Any]]) -> None:
            with pytest.raises(OtherLoop, match="event loop that opened it"):
                asyncio.run(use())

        async def expect() -> None:
            client.expect("x")

        for use in (call, lambda: client.send(ask()), expect):
            await asyncio.to_thread(elsewhere, use)
        loop = asyncio.get_running_loop()
        handed_over = asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(call(), loop).result(PATIENCE_S))
        results = await asyncio.gather(*(call() for _ in range(20)), handed_over)
        assert all(result.success for result in results)
        assert len({result.id for result in results}) == 21


async def test_a_request_that_is_no_json_is_an_error_of_the_clients_own(kafka: KafkaSettings) -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    async with InferenceClient(kafka, tasks=["echo"]) as client:
        for value in (object(), "\ud800", deep):
            with pytest.raises(RequestNotSent, match="cannot be written as JSON"):
                await client.infer(ask("r", metadata={"x": value}))
        with pytest.raises(RequestNotSent, match="has 257 characters; 256 are allowed"):
            await client.infer(ask("r" * 257), timeout_s=PATIENCE_S)
        with pytest.raises(RequestNotSent, match="cannot be written as JSON"):
            await client.infer(ask("half of a character: \ud800"))
        answered = []
        async with echo(kafka):
            with pytest.raises(RequestsUnanswered, match="cannot be written as JSON"):
                async for result in client.infer_many([ask("\ud800"), ask("r1")], timeout_s=PATIENCE_S):
                    answered.append(result.id)
        assert answered == ["r1"]
        await asyncio.sleep(0)  # what was cancelled is forgotten by the loop's next turn
        assert not client._awaited


@pytest.mark.parametrize("task", ["text generation", "ocr/2", "t" * 250])
async def test_a_task_that_cannot_be_is_an_error_at_once(kafka: KafkaSettings, task: str) -> None:
    async with InferenceClient(kafka, tasks=[]) as client:
        with pytest.raises(RequestNotSent, match="there is no task"):
            await client.send(ask("r", task=task), timeout_s=PATIENCE_S)


async def test_a_call_that_is_cancelled_costs_another_with_its_id_nothing(kafka: KafkaSettings) -> None:
    gate = asyncio.Event()
    async with echo(kafka, lambda identity: gate.is_set()), InferenceClient(kafka, tasks=["echo"]) as client:
        one, other = (asyncio.create_task(client.infer(ask("same"), timeout_s=PATIENCE_S)) for _ in range(2))
        await client.send(ask("same"))
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        gate.set()
        await client.send(ask("same"))
        assert (await other).id == "same"
    assert not client._awaited


async def test_a_foreign_record_on_a_result_topic_ends_nothing_and_two_clients_get_their_own(
    kafka: KafkaSettings,
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    await producer.start()
    try:
        async with (
            InferenceClient(kafka, tasks=["echo"]) as one,
            InferenceClient(kafka, tasks=["echo"]) as other,
            echo(kafka),
        ):
            for value in (b"no json", b"{}", None):
                await producer.send_and_wait(Topics(kafka.topic_prefix).results("echo"), value, key=b"k")
            results = await asyncio.gather(
                *(client.infer(ask(name), timeout_s=PATIENCE_S) for client, name in ((one, "a"), (other, "b")))
            )
    finally:
        await producer.stop()
    assert [result.id for result in results] == ["a", "b"]


async def test_many_requests_have_their_results_one_without_costs_the_others_nothing(
    kafka: KafkaSettings,
) -> None:
    drawn: list[str] = []

    def requests() -> Iterator[Request]:
        for number in range(40):
            drawn.append(f"r{number}")
            yield ask(f"r{number}")

    found: list[str] = []
    most = 0
    async with InferenceClient(kafka, tasks=["echo"]) as client, echo(kafka, lambda name: name != "r3"):
        with pytest.raises(RequestsUnanswered, match="1 of 40 requests") as missing:
            async for result in client.infer_many(requests(), timeout_s=20, max_outstanding=5):
                found.append(result.id)
                most = max(most, len(drawn) - len(found))
        left = client.infer_many(requests(), timeout_s=PATIENCE_S, max_outstanding=5)
        await anext(left)
        await left.aclose()
        assert not client._awaited
    assert sorted(found) == sorted(f"r{number}" for number in range(40) if number != 3)
    assert isinstance(missing.value.errors["r3"], NoAnswer)
    assert most <= 7


_QUIET = """
import asyncio, logging, signal, sys, uuid
from aiokafka.consumer import fetcher

def around():
    return (
        vars(fetcher).copy(), fetcher.Fetcher._proc_fetch_request, list(logging.root.handlers), logging.root.level,
        logging.getLogger("aiokafka").level, [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)],
        type(asyncio.get_event_loop_policy()), logging.getLevelName(logging.root.level), sys.excepthook,
    )

before = around()
import structlog
from streams.client import InferenceClient
from streams.settings import KafkaSettings
assert not structlog.is_configured()

async def main():
    kafka = KafkaSettings(bootstrap_servers=sys.argv[1], topic_prefix=sys.argv[2])
    at_work = around()  # asyncio.run has a handler of SIGINT of its own
    async with InferenceClient(kafka, tasks=["echo"]):
        assert around() == at_work
    assert around() == at_work

assert around() == before
asyncio.run(main())
assert not {"faust", "torch", "mlflow", "uvloop"} & set(sys.modules)
print("as it was")
"""


async def test_a_client_changes_nothing_in_its_process(kafka: KafkaSettings) -> None:
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", _QUIET, kafka.bootstrap_servers, kafka.topic_prefix],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert ran.stdout == "as it was\n", ran.stderr
