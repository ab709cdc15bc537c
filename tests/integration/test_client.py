"""The client in somebody's service: what it rides out, what it says, and that it changes nothing around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.errors import KafkaError

from deploy.local import KafkaRelease, LocalStack
from engines.run.results import result_of
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
from streams.kafka.topic_admin import TopicsNotReady, TopicsRefused, check_topics, create_topics
from streams.kafka.topics import Topics
from streams.messages import Request, Result, encode
from streams.settings import KafkaSettings
from tests.kafka_cluster import RunningCluster

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def cluster(
    kafka_release: KafkaRelease | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningCluster | None]:
    """Three brokers of Apache Kafka where a release is named; a test that stops one starts it again."""
    if kafka_release is None:
        yield None
        return
    with RunningCluster(tmp_path_factory.mktemp("client-kafka"), kafka_release, brokers=3) as cluster:
        yield cluster


@pytest.fixture
async def kafka(cluster: RunningCluster | None, request: pytest.FixtureRequest) -> KafkaSettings:
    """Topics of a test's own for task `echo`."""
    if cluster is None:
        stack: LocalStack = request.getfixturevalue("local_stack")
        where = stack.settings()["kafka"]
    else:
        where = cluster.kafka
    prefix = f"t{uuid.uuid4().hex[:8]}"
    settings = KafkaSettings(**where, topic_prefix=prefix, partitions=2, producer_timeout_s=10)
    await create_topics(settings, ["echo"])
    return settings


@pytest.fixture
def killable(cluster: RunningCluster | None) -> RunningCluster:
    if cluster is None:
        pytest.skip("only Apache Kafka has several brokers, adds partitions and keeps what it has")
    return cluster


def ask(identity: str = "", *, task: str = "echo", **changes: Any) -> Request:
    return Request(id=identity, task=task, engine="e", model_name="m", data={}, **changes)


@contextlib.asynccontextmanager
async def echo(
    kafka: KafkaSettings, answers: Callable[[str], bool] = lambda identity: True
) -> AsyncIterator[None]:
    """Answer requests of task `echo` during the block, but for those that `answers` leaves out."""
    topics = Topics(kafka.topic_prefix)
    consumer = AIOKafkaConsumer(
        topics.requests("echo"),
        bootstrap_servers=kafka.bootstrap_servers,
        group_id=None,
        auto_offset_reset="earliest",
        metadata_max_age_ms=1000,
    )
    # Of all replicas: an answer that the leader alone has is gone with it.
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers, acks="all", metadata_max_age_ms=1000
    )
    await consumer.start()
    await producer.start()

    async def work() -> None:
        async for record in consumer:
            request = json.loads(record.value)
            if not answers(request["id"]):
                continue
            names = {name: request[name] for name in ("id", "task", "engine", "model_name")}
            result = encode(result_of({"text": "done"}, processing_s=0.0, **names))
            while True:
                try:
                    await producer.send_and_wait(topics.results("echo"), result, key=record.key)
                    break
                except KafkaError:  # a broker is away
                    await asyncio.sleep(0.1)

    working = asyncio.create_task(work())
    try:
        yield
    finally:
        if working.done():  # it answers for ever, so something is wrong with it, and not with the client
            working.result()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await consumer.stop()
        await producer.stop()


async def test_calls_ride_out_the_death_of_a_broker(kafka: KafkaSettings, killable: RunningCluster) -> None:
    done, over = 0, asyncio.Event()

    async def call(client: InferenceClient) -> None:
        nonlocal done
        while not over.is_set():
            result = await client.infer(ask(), key=uuid.uuid4().bytes, timeout_s=PATIENCE_S)
            assert result.success
            done += 1

    async with (
        echo(kafka),
        InferenceClient(kafka, tasks=["echo"]) as client,
        asyncio.TaskGroup() as callers,
    ):
        for _ in range(8):
            callers.create_task(call(client))
        for number in (1, 2):
            before = done
            await asyncio.to_thread(killable.kill, number)
            async with asyncio.timeout(PATIENCE_S):
                while done < before + 100:
                    await asyncio.sleep(0.05)
            await asyncio.to_thread(killable.restart, number)
        over.set()
    assert done >= 200


_HOST = """
import asyncio, sys
from streams.client import InferenceClient
from streams.messages import Request
from streams.settings import KafkaSettings

async def main():
    kafka = KafkaSettings(bootstrap_servers=sys.argv[1], topic_prefix=sys.argv[2], producer_timeout_s=2)
    request = Request(task="echo", engine="e", model_name="m", data={})
    async with InferenceClient(kafka, tasks=["echo"]) as client:
        print("opened", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await client.send(request, timeout_s=600)
        print("sent", flush=True)

asyncio.run(main())
"""


async def test_brokers_that_are_away_are_a_few_lines_and_their_return_is_seen(
    kafka: KafkaSettings, killable: RunningCluster
) -> None:
    host = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", _HOST, kafka.bootstrap_servers, kafka.topic_prefix],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert host.stdin is not None
    assert host.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert await host.stdout.readline() == b"opened\n"
        await asyncio.to_thread(killable.kill, 1, 2, 3)
        host.stdin.write(b"\n")  # it knows nothing of the topic it is to send to yet
        await asyncio.sleep(15)  # as long as they are away, and longer than the client's own time-out
        await asyncio.to_thread(killable.restart, 1, 2, 3)
        async with asyncio.timeout(PATIENCE_S):
            out, err = await host.communicate()
    finally:
        if host.returncode is None:
            host.kill()
            await host.wait()
    assert out == b"sent\n", err.decode()
    assert len(err.splitlines()) < 100, err.decode()


async def test_results_in_partitions_that_were_added_are_read_from_their_start(
    kafka: KafkaSettings, killable: RunningCluster
) -> None:
    topic = Topics(kafka.topic_prefix).results("echo")
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    async with InferenceClient(kafka, tasks=["echo"]) as client:
        before, after = client.expect("before"), client.expect("after")
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, metadata_max_age_ms=500)
        await producer.start()
        try:
            about: dict[str, Any] = {"task": "echo", "engine": "e", "model_name": "m", "processing_s": 0.0}
            await producer.send_and_wait(topic, encode(result_of({}, id="before", **about)), partition=0)
            await admin.create_partitions({topic: NewPartitions(4)})
            async with asyncio.timeout(PATIENCE_S):
                while len(await producer.partitions_for(topic)) < 4:
                    await asyncio.sleep(0.2)
            await producer.send_and_wait(topic, encode(result_of({}, id="after", **about)), partition=3)
            async with asyncio.timeout(PATIENCE_S):
                assert (await before).success
                assert (await after).success
        finally:
            await producer.stop()
            await admin.close()


async def test_a_cluster_without_a_controller_is_told(kafka: KafkaSettings, killable: RunningCluster) -> None:
    await asyncio.to_thread(killable.kill, 1, 2)
    try:
        assert await check_topics(kafka, ["echo"]) == []
        with pytest.raises(TopicsRefused, match="the cluster has no controller"):
            await create_topics(kafka, ["other"])
    finally:
        await asyncio.to_thread(killable.restart, 1, 2)


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
        with pytest.raises(RequestNotSent, match=r"requests\.echo does not take request r1"):
            await client.infer(ask("r1", metadata={"x": "x" * 20_000}), timeout_s=PATIENCE_S)


async def test_a_missing_topic_is_named(kafka: KafkaSettings, killable: RunningCluster) -> None:
    with pytest.raises(TopicsNotReady, match=r"results\.absent does not exist"):
        async with InferenceClient(kafka, tasks=["absent"]):
            pass
    short = kafka.model_copy(update={"producer_timeout_s": 1.0})
    async with InferenceClient(short, tasks=[]) as client:
        with pytest.raises(RequestNotSent, match=r"requests\.absent"):
            await client.send(ask(task="absent"), timeout_s=PATIENCE_S)


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
        handed_over = asyncio.to_thread(
            lambda: asyncio.run_coroutine_threadsafe(call(), loop).result(PATIENCE_S)
        )
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
        await asyncio.sleep(0)  # what was cancelled is forgotten by the loop's next turn
        assert not client._awaited


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
                *(
                    client.infer(ask(name), timeout_s=PATIENCE_S)
                    for client, name in ((one, "a"), (other, "b"))
                )
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
