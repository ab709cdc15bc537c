"""A member and its group on Apache Kafka: why a broker does not take it, that it comes right, and who stops."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest

from deploy.local import KafkaRelease
from streams.faust.group_supervisor import Supervisor
from streams.faust.membership import Membership
from streams.kafka.aiokafka_internals import Coordination
from streams.kafka.group_refusals import GroupRefused
from streams.kafka.topic_admin import Rights, check_rights, check_topics, create_topics
from streams.settings import KafkaSettings
from tests.kafka_cluster import RunningCluster

T = TypeVar("T")

PATIENCE_S = 90.0
LIMITS = {
    "group.max.size": "2",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}
TOPIC, GROUP = 2, 3
LITERAL, DENY, ALLOW = 3, 2, 3
READ, WRITE, DESCRIBE_CONFIGS = 3, 4, 10


@pytest.fixture(scope="module")
def kafka(kafka_release: KafkaRelease | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """One broker that limits groups to two members and heeds access rules."""
    if kafka_release is None:
        pytest.skip("needs Apache Kafka: the embedded broker has neither rights nor limits")
    with RunningCluster(tmp_path_factory.mktemp("limits"), kafka_release, properties=LIMITS) as cluster:
        yield cluster


class Member:
    """A consumer of a group as a worker has one, with what watches over it."""

    def __init__(self, settings: KafkaSettings, topics: list[str], *, assignor: Any = None) -> None:
        self.settings = settings
        self.fatal: list[GroupRefused] = []
        self.membership = Membership(settings, topics, on_fatal=self.fatal.append)
        strategy = {"partition_assignment_strategy": [assignor]} if assignor else {}
        self.consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=settings.bootstrap_servers,
            group_id=settings.group_id,
            group_instance_id=settings.group_instance_id,
            enable_auto_commit=False,
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(settings.heartbeat_interval_s * 1000),
            metadata_max_age_ms=1000,
            **strategy,
        )

    async def start(self) -> None:
        await self.consumer.start()
        self.supervisor = Supervisor(Coordination(self.consumer), self.membership)
        self._watching = asyncio.create_task(self.supervisor.watch())
        self.consumer.subscribe(sorted(self.membership.topics))

    async def stop(self) -> None:
        self._watching.cancel()
        await asyncio.wait([self._watching])
        await self.supervisor.leave_while_joining()
        await self.consumer.stop()


class Place:
    """A topic and a group of a test's own."""

    def __init__(self, kafka: RunningCluster) -> None:
        self.name = f"t{uuid.uuid4().hex[:10]}"
        self.servers = kafka.bootstrap_servers
        self.members: list[Member] = []

    async def topic(self, *, is_there: bool = True) -> None:
        async with admin(self.servers) as client:
            if is_there:
                await client.create_topics([NewTopic(self.name, 2, 1)])
            else:
                await client.delete_topics([self.name])

    async def deny(self, kind: int, *, is_denied: bool = True) -> None:
        """Take the right to read the topic or group of this name from everybody, or give it back."""
        await self._rule(kind, self.name, READ, DENY, is_new=is_denied)

    async def allow_only(self, operation: int, topic: str) -> None:
        """Leave everybody one right to a topic."""
        await self._rule(TOPIC, topic, operation, ALLOW)

    async def _rule(self, kind: int, name: str, operation: int, how: int, *, is_new: bool = True) -> None:
        request = CreateAclsRequest if is_new else DeleteAclsRequest
        async with admin(self.servers) as client:
            rule = request(kind, name, LITERAL, "User:ANONYMOUS", "*", operation, how)
            response = await client._send_to_controller(rule)
        assert "error_code=0" in str(response), response

    async def member(self, *, assignor: Any = None, **changes: Any) -> Member:
        settings = KafkaSettings(
            bootstrap_servers=self.servers,
            group_id=self.name,
            **{"session_timeout_s": 6, "heartbeat_interval_s": 0.5, **changes},
        )
        made = Member(settings, [self.name], assignor=assignor)
        self.members.append(made)
        await made.start()
        return made


@asynccontextmanager
async def admin(servers: str) -> AsyncIterator[Any]:
    client = AIOKafkaAdminClient(bootstrap_servers=servers)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
async def place(kafka: RunningCluster) -> AsyncIterator[Place]:
    made = Place(kafka)
    await made.topic()
    yield made
    await asyncio.gather(*(member.stop() for member in made.members))


async def until(holds: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"it never came to this: {what}") from None


async def eventually(ask: Callable[[], Awaitable[T]], holds: Callable[[T], object]) -> T:
    """Return the first answer for which it holds: a broker heeds a new rule a moment after it has taken it."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds(answer := await ask()):
            await asyncio.sleep(0.1)
    return answer


async def joined(member: Member) -> None:
    await until(lambda: member.membership.state == "joined", f"joined, now {vars(member.membership)}")


async def refused(member: Member, *words: str) -> None:
    await until(
        lambda: member.membership.state == "refused" and all(word in member.membership.reason for word in words),
        f"refused with {words}",
    )


async def test_a_member_without_the_right_to_read_its_group_says_so_and_joins_when_it_is_granted(
    place: Place,
) -> None:
    await place.deny(GROUP)
    member = await place.member()
    await refused(member, "no right to read group", place.name, "grant it READ")
    await place.deny(GROUP, is_denied=False)
    await joined(member)
    assert member.membership.reason == ""
    assert not member.fatal


async def test_a_right_that_is_taken_away_later_is_told_as_well_and_works_again_when_it_is_back(
    place: Place,
) -> None:
    member = await place.member()
    await joined(member)
    await place.deny(GROUP)
    await refused(member, "no right to read group")
    await place.deny(GROUP, is_denied=False)
    await joined(member)
    assert len(member.consumer.assignment()) == 2


async def test_a_session_timeout_that_the_broker_does_not_allow_ends_the_worker_with_the_limits(
    place: Place,
) -> None:
    member = await place.member(session_timeout_s=1, heartbeat_interval_s=0.3)
    await until(lambda: member.fatal, "an end")
    told = str(member.fatal[0])
    assert "kafka.session_timeout_s=1" in told
    assert "group.min.session.timeout.ms" in told


async def test_a_full_group_is_told_and_joined_when_a_member_leaves(place: Place) -> None:
    first, second = await place.member(), await place.member()
    await joined(first)
    await joined(second)
    third = await place.member()
    await refused(third, "group.max.size", "127.0.0.1")
    await first.stop()
    place.members.remove(first)
    await joined(third)


async def test_a_member_with_another_assignor_is_named_and_joined_after(place: Place) -> None:
    other = await place.member(assignor=RangePartitionAssignor)
    await joined(other)
    member = await place.member()
    await refused(member, "roundrobin", "members: ", "127.0.0.1")
    await other.stop()
    place.members.remove(other)
    await joined(member)


async def test_of_two_workers_with_one_instance_id_the_older_stops_and_names_the_other(place: Place) -> None:
    older = await place.member(group_instance_id="one")
    await joined(older)
    newer = await place.member(group_instance_id="one")
    await until(lambda: older.fatal, "the end of the older")
    told = str(older.fatal[0])
    assert "kafka.group_instance_id='one'" in told
    assert f"{newer.consumer._coordinator.member_id} at 127.0.0.1" in told
    await joined(newer)
    assert not newer.fatal


async def test_a_member_with_an_instance_id_that_was_only_silent_for_too_long_joins_again(
    place: Place,
) -> None:
    member = await place.member(group_instance_id="one")
    await joined(member)
    coordinator = member.consumer._coordinator
    before = coordinator.member_id
    await coordinator._stop_heartbeat_task()  # as if it was frozen

    async def forgotten() -> bool:
        return not await member.supervisor._holders()

    async with asyncio.timeout(PATIENCE_S):
        while not await forgotten():
            await asyncio.sleep(0.2)
    coordinator._start_heartbeat_task()
    await until(lambda: coordinator.member_id not in ("", before), "a place of its own again")
    await joined(member)
    assert not member.fatal


async def test_a_topic_that_is_deleted_is_missing_until_it_is_made_again(place: Place) -> None:
    member = await place.member()
    await joined(member)
    await until(lambda: len(member.consumer.assignment()) == 2, "two partitions")
    await place.topic(is_there=False)
    await until(lambda: member.membership.missing_topics == {place.name}, "a missing topic")
    await until(lambda: not member.consumer.assignment(), "no partitions")
    await place.topic()
    await until(lambda: len(member.consumer.assignment()) == 2, "two partitions again")
    await until(lambda: not member.membership.missing_topics, "no missing topic")


async def test_a_topic_that_may_not_be_read_is_not_missing_and_says_what_to_grant(place: Place) -> None:
    member = await place.member()
    await joined(member)
    await place.deny(TOPIC)
    await until(member.membership.unreadable_topics, "a topic that may not be read")
    assert "grant Describe and what it needs of Read" in member.membership.unreadable_topics()[place.name]
    assert not member.membership.missing_topics
    await place.deny(TOPIC, is_denied=False)
    await until(lambda: not member.membership.unreadable_topics(), "a topic that may be read")
    await until(lambda: len(member.consumer.assignment()) == 2, "two partitions again")


async def test_a_member_that_waits_for_others_leaves_at_once(place: Place) -> None:
    """The other one does not rejoin, so that the coordinator answers no join before its rebalance time-out."""
    slow = await place.member()
    await joined(slow)
    slow.consumer._coordinator.ensure_active_group = lambda *_: asyncio.sleep(3600)
    member = await place.member()
    await until(lambda: member.supervisor._is_joining, "a join")
    async with asyncio.timeout(20):
        await member.stop()
    place.members.remove(member)
    slow.consumer._coordinator._coordination_task.cancel()
    slow.consumer._coordinator._closing.set_result(None)


async def test_what_a_worker_may_not_do_is_found_without_doing_it(place: Place) -> None:
    """Rights are asked of topics that a task has: their names begin with the prefix."""
    settings = KafkaSettings(
        bootstrap_servers=place.servers, group_id=place.name, topic_prefix=place.name, partitions=2
    )
    await create_topics(settings, ["asr"])
    assert await check_rights(settings, ["asr"]) == Rights(topics=[], group=None, is_told=True)
    requests, results = f"{place.name}.requests.asr", f"{place.name}.results.asr"
    await place.deny(GROUP)
    await place.allow_only(WRITE, requests)
    await place.allow_only(READ, results)
    rights = await eventually(
        lambda: check_rights(settings, ["asr"]), lambda found: found.group and len(found.topics) == 2
    )
    assert [one.topic for one in rights.topics] == [requests, results]
    assert "may not be read by this client" in str(rights.topics[0])
    assert "may not be written to by this client" in str(rights.topics[1])
    assert rights.group is not None
    assert "no right to read group" in rights.group
    assert rights.is_told


async def test_a_topic_that_may_not_be_seen_is_not_said_to_be_missing(place: Place) -> None:
    settings = KafkaSettings(
        bootstrap_servers=place.servers, group_id=place.name, topic_prefix=place.name, partitions=2
    )
    await create_topics(settings, ["asr"])
    await place.allow_only(DESCRIBE_CONFIGS, f"{place.name}.requests.asr")
    [problem] = await eventually(lambda: check_topics(settings, ["asr"]), bool)
    assert "does not exist" not in str(problem)
    assert "the right to describe it is missing" in str(problem)
