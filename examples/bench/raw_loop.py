"""The baselines of the stream benchmarks: aiokafka by itself, which consumes, sends values on or answers, and commits.

A process of its own, as the worker is: `python -m examples.bench.raw_loop SETTINGS.json`. It reads its topic in
its group, produces every value unchanged or, where it has a topic for events, the result and event that the worker
sends; waits for the broker's acknowledgements, and commits as often as the worker does: the least that any consumer
does that loses nothing.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from examples.bench.same_work import answering, passing_on
from streams.settings import KafkaSettings

_STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class RawLoop:
    """What the loop is told; the same fetch wait, most records and time between commits as the worker's."""

    bootstrap_servers: str
    group_id: str
    source: str
    target: str
    session_timeout_s: float
    heartbeat_interval_s: float
    fetch_max_wait_ms: int
    max_poll_records: int
    commit_interval_s: float
    events: str | None = None
    """Where events go of a loop that answers; None for one that sends values on."""

    @classmethod
    def like(
        cls, kafka: KafkaSettings, *, group_id: str, source: str, target: str, events: str | None = None
    ) -> RawLoop:
        """Return a loop with the settings that a worker has."""
        return cls(
            bootstrap_servers=kafka.bootstrap_servers,
            group_id=group_id,
            source=source,
            target=target,
            session_timeout_s=kafka.session_timeout_s,
            heartbeat_interval_s=kafka.heartbeat_interval_s,
            fetch_max_wait_ms=kafka.fetch_max_wait_ms,
            max_poll_records=kafka.max_poll_records,
            commit_interval_s=kafka.commit_interval_s,
            events=events,
        )

    async def run(self) -> None:
        """Work until cancelled."""
        consumer = AIOKafkaConsumer(
            self.source,
            bootstrap_servers=self.bootstrap_servers,
            group_id=self.group_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=int(self.session_timeout_s * 1000),
            heartbeat_interval_ms=int(self.heartbeat_interval_s * 1000),
            fetch_max_wait_ms=self.fetch_max_wait_ms,
        )
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap_servers, acks="all")
        work = passing_on(self.target) if self.events is None else answering(self.target, self.events)
        async with producer, consumer:
            committed_at = time.monotonic()
            is_committed = True
            while True:
                batches = await consumer.getmany(timeout_ms=100, max_records=self.max_poll_records)
                sent = [
                    await producer.send(one.topic, one.value, one.key, headers=one.headers)
                    for records in batches.values()
                    for record in records
                    for one in work(record)
                ]
                if sent:
                    await asyncio.gather(*sent)
                    is_committed = False
                if not is_committed and time.monotonic() - committed_at >= self.commit_interval_s:
                    await consumer.commit()
                    is_committed, committed_at = True, time.monotonic()


class RawLoopProcess:
    """The loop as a child process, for the length of a `with` block."""

    def __init__(self, loop: RawLoop, directory: Path) -> None:
        self._settings_path = directory / f"{loop.group_id}.json"
        self._settings_path.write_text(json.dumps(asdict(loop)))

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "examples.bench.raw_loop", str(self._settings_path)],
            stdin=subprocess.DEVNULL,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> None:
    """Run the loop that the file named on the command line describes, until SIGTERM."""
    import logging

    import uvloop

    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    loop = RawLoop(**json.loads(Path(sys.argv[1]).read_text()))

    async def until_told() -> None:
        working = asyncio.create_task(loop.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
        await asyncio.wait({working})
        if not working.cancelled():
            working.result()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_told())


if __name__ == "__main__":
    main()
