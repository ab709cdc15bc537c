"""The private names of aiokafka that are used, behind public ones.

Only the object that is passed in is changed, never a module or a class. Everything runs on the event loop of its
client. A worker pins aiokafka: check this file against a new version before moving to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from itertools import islice
from types import FunctionType
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecord, _DefaultRecordBatchPy

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer
    from aiokafka.producer.message_accumulator import BatchBuilder

Place = tuple[str, int]
"""A topic and the number of a partition; what aiokafka calls a TopicPartition is one."""
_Call = Callable[..., Awaitable[Any]]
_COORDINATION = ConnectionGroup.COORDINATION


class ConsumerClosing(Exception):
    """Raised where the consumer is being stopped, so that nothing more will come."""


def client_of(owner: Any) -> Any:
    """Return the AIOKafkaClient of a consumer or an admin."""
    return owner._client


def adapt_connections(client: Any) -> None:
    """Let `client` make several connections at a time, and take a write to a closed one as an error of that connection.

    Else a silent broker blocks the connections to all others. And uvloop raises RuntimeError at such a write, where
    aiokafka expects OSError: that would end the tasks of `client` that keep its metadata and its place in the group.
    """
    client._get_conn_lock_value = contextlib.nullcontext()
    own: _Call = client._get_conn

    async def connection(*node: Any, **options: Any) -> Any:
        made = await own(*node, **options)
        if made is not None:
            _raise_os_errors(made)
        return made

    client._get_conn = connection


def _raise_os_errors(connection: Any) -> None:
    writer = connection._writer
    if writer is None or "write" in vars(writer):
        return
    own = writer.write

    def write(data: bytes) -> None:
        try:
            own(data)
        except RuntimeError as error:
            raise ConnectionResetError(str(error)) from error

    writer.write = write


def connect_by(client: Any, connect: _Call) -> _Call:
    """Make `client` get each connection from `connect`, side by side; return its original way."""
    adapt_connections(client)
    own: _Call = client._get_conn
    client._get_conn = connect
    return own


def parse_fetches(
    consumer: AIOKafkaConsumer, batches: type, record: Callable[[TopicPartition, Any], Any] | None = None
) -> None:
    """Use `batches` in place of aiokafka's `MemoryRecords` for everything that `consumer` fetches.

    `record` makes the delivered object from a partition and a raw record, where that is not a ConsumerRecord. The
    consumer is started and has no partitions yet, so no fetch is under way.
    """
    names: dict[str, Any] = {"MemoryRecords": batches}
    if record is not None:
        methods = {"_consumer_record": staticmethod(record)}
        names["PartitionRecords"] = type("PartitionRecords", (fetcher.PartitionRecords,), methods)
    own = fetcher.Fetcher._proc_fetch_request
    seeing = FunctionType(own.__code__, {**own.__globals__, **names}, own.__name__, own.__defaults__, own.__closure__)
    seeing.__kwdefaults__ = own.__kwdefaults__
    consumer._fetcher._proc_fetch_request = seeing.__get__(consumer._fetcher)


def read_leniently(batch: memoryview) -> Iterator[DefaultRecord]:
    """Yield the records of a batch; bytes in header names that are not UTF-8 become replacement characters.

    Raises:
        CorruptRecordException: the length of a record is not that of what is in it.
    """
    records = _DefaultRecordBatchPy(batch)
    records._maybe_uncompress()
    records._buffer = _Lenient(records._buffer)
    yield from records


class _Lenient(bytearray):
    """Bytes whose slices decode with replacement characters."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _Lenient(found) if isinstance(found, bytearray) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


def fill(batch: BatchBuilder, records: Iterable[Any]) -> int:
    """Append to a new batch as many of `records` as fit, at least one; return how many.

    Like `BatchBuilder.append` for one record, in about half its time: that calls serializers and the clock each time.
    Uses `key`, `value` and `headers` of a record.
    """
    append = batch._builder.append
    now_ms = int(time.time() * 1000)
    count = 0
    for record in records:
        if append(count, now_ms, record.key, record.value, record.headers) is None:
            break
        count += 1
    batch._relative_offset = count
    return count


class Coordination:
    """The communication of one started consumer with its group coordinator."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self.client: Any = consumer._client
        self.coordinator: Any = consumer._coordinator
        """aiokafka's GroupCoordinator; what has a public name there is used by it."""
        self.closing: asyncio.Future[None] = self.coordinator._closing
        """Done when the consumer is being stopped; once it is, nothing joins any more."""

    @property
    def has_broken_off(self) -> bool:
        """Whether the task that joins and rejoins has ended."""
        return self.coordinator._coordination_task.done()  # type: ignore[no-any-return]

    def take_over(self, *, send: _Call, join: _Call, refused: _Call) -> tuple[_Call, _Call]:
        """Replace how requests are sent and how the group is joined; return the original ways.

        `refused` is called with the error that would be raised to the user; until it returns, the coordination waits.
        """
        coordinator = self.coordinator
        own = coordinator._send_req, coordinator.ensure_active_group
        coordinator._send_req, coordinator.ensure_active_group = send, join
        coordinator._push_error_to_user = refused
        return own

    async def ask(self, request: Any) -> Any:
        """Send a request to the coordinator, and return its answer.

        Raises:
            KafkaError: retryable; it cannot be reached.
        """
        return await self.coordinator._send_req(request)

    def limit_answers(self, node: int, limit_s: float) -> None:
        """Set how long the connected `node` may take to answer before its connection is closed."""
        self.client._conns[node, _COORDINATION]._request_timeout = limit_s

    def disconnect(self, node: int) -> None:
        """Close the group's connection to `node`, if there is one; requests that wait for it fail."""
        if (connection := self.client._conns.get((node, _COORDINATION))) is not None:
            connection.close()

    def has_asked_for(self, topics: Iterable[str]) -> bool:
        """Return whether the client knows, or has asked for, all these topics."""
        return bool(set(topics) <= self.client._topics)

    async def restart(self) -> None:
        """Restart a part that ended with an error: aiokafka would raise that error again for ever."""
        coordinator = self.coordinator
        if _has_failed(coordinator._heartbeat_task):
            await coordinator._stop_heartbeat_task()
            coordinator._start_heartbeat_task()
        if _has_failed(coordinator._commit_refresh_task):
            assignment = coordinator._subscription.subscription.assignment
            if assignment is not None:
                coordinator.start_commit_offsets_refresh_task(assignment)


class AssignedPartitions:
    """One assignment of a consumer: its buffers and positions, while it is the current one."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._subscription = consumer._subscription
        self._assignment = consumer._subscription.subscription.assignment
        self._fetcher = consumer._fetcher

    @property
    def holds(self) -> bool:
        """Whether no other assignment has followed."""
        subscription = self._subscription.subscription
        return subscription is not None and subscription.assignment is self._assignment

    @property
    def is_present(self) -> bool:
        """Whether it holds, and no rebalance has begun."""
        return self.holds and not self._subscription.reassignment_in_progress

    @property
    def partitions(self) -> frozenset[Place]:
        return self._assignment.tps  # type: ignore[no-any-return]

    async def starts(self, partitions: Iterable[Place], *, timeout_s: float) -> Mapping[Place, int]:
        """Return the first offsets of these partitions.

        Raises:
            KafkaError: retryable; a broker did not answer in time.
        """
        asked = [TopicPartition(*one) for one in partitions]
        return await self._fetcher.beginning_offsets(asked, int(timeout_s * 1000))  # type: ignore[no-any-return]

    def position(self, partition: Place) -> int | None:
        """Return the offset that aiokafka fetches next, None where it has none."""
        return self._assignment.state_value(partition)._position  # type: ignore[no-any-return]

    def seek(self, partition: Place, offset: int) -> None:
        """Fetch from `offset` on, and drop buffered records."""
        self._fetcher.seek_to(partition, offset)

    def pause(self, partition: Place) -> None:
        """Pause the partition, and drop buffered records."""
        self._subscription.pause(partition)
        self._fetcher._records.pop(partition, None)

    def buffered(self) -> list[Place]:
        """Return the partitions with buffered records or errors, the longest waiting first."""
        return list(self._fetcher._records)

    def error(self, partition: Place) -> Exception | None:
        """Return the broker's error in place of records, None where there is none."""
        held = self._fetcher._records.get(partition)
        return held._error if isinstance(held, fetcher.FetchError) else None

    def drop(self, partition: Place) -> None:
        """Drop what is buffered, and fetch more."""
        del self._fetcher._records[partition]
        self._fetcher._notify(self._fetcher._wait_consume_future)

    def buffered_from(self, partition: Place) -> int:
        """Return the offset of the next buffered record of a partition."""
        return self._fetcher._records[partition]._partition_records.next_fetch_offset  # type: ignore[no-any-return]

    def take(self, partition: Place, most: int) -> tuple[list[Any], int, Exception | None, Any]:
        """Take up to `most` records from the buffer, and move the position behind them.

        Return the records, the new position, and, where the next record cannot be read, the error and its batches.
        Nothing is awaited, so no rebalance can come between.
        """
        held = self._fetcher._records[partition]._partition_records
        records: list[Any] = []
        damage: Exception | None = None
        try:
            records.extend(islice(held, most))  # keeps the records before an error
        except Exception as error:  # noqa: BLE001 - codecs raise what they like; the caller reports it
            damage = error
        end = held.next_fetch_offset
        self._assignment.state_value(partition).consumed_to(end)
        if damage is not None or len(records) < most:
            self.drop(partition)
        return records, end, damage, held._records

    async def arrival(self, timeout_s: float) -> None:
        """Return when something was fetched, or after `timeout_s`.

        Raises:
            KafkaError: permanent; the group cannot go on, or the fetcher has died.
            ConsumerClosing: the consumer is being stopped.
        """
        own = self._fetcher
        if self._consumer._closed or own._closed:
            raise ConsumerClosing
        waiter = own._create_fetch_waiter()
        try:
            await asyncio.wait([waiter, own._fetch_task], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if waiter.done():
                waiter.result()
        finally:
            waiter.cancel()
        if self._consumer._closed or own._closed:
            raise ConsumerClosing
        if own._fetch_task.done():
            own._fetch_task.result()

    def wake(self) -> None:
        """Let those that await an arrival check again."""
        for waiter in list(self._fetcher._fetch_waiters):
            self._fetcher._notify(waiter)


def _has_failed(task: asyncio.Task[None] | None) -> bool:
    return task is not None and task.done() and not task.cancelled() and task.exception() is not None
