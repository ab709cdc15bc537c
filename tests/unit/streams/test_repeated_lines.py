"""What libraries repeat is told once, then at growing intervals, and nothing is left out without a word."""

from __future__ import annotations

import io
import json
import logging
import ssl
import subprocess
import sys
from typing import Any

import pytest
from aiokafka.errors import (
    KafkaStorageError,
    NodeNotReadyError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    NotLeaderForPartitionError,
    SaslAuthenticationFailed,
    UnknownTopicOrPartitionError,
)
from faust.transport.drivers import aiokafka as driver

from streams import repeated_lines
from streams.faust.faust_internals import BatchConsumer, ConsumerThread, InferenceApp, PatientProducer
from streams.logs import configure_logging, tell_left_out
from streams.repeated_lines import RepeatedLines
from streams.settings import LoggingSettings


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Heard(logging.Handler):
    """A handler that keeps what passes the filter."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.repeated = RepeatedLines(self.clock)
        self.addFilter(self.repeated)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def say(self, message: str, *arguments: Any, name: str = "aiokafka", level: int = logging.ERROR) -> None:
        self.handle(logging.LogRecord(name, level, "x.py", 1, message, arguments, None))


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_an_outage_is_one_line_and_then_one_after_growing_pauses(heard: Heard) -> None:
    for _ in range(7200):  # an hour of what one worker says while three brokers are away
        heard.say("Unable connect to node with id %s: %s", 1, ConnectionRefusedError(111, "Connect call failed"))
        heard.say("Failed fetch messages from %s: %s", 2, NodeNotReadyError("not ready (node id 2)"))
        heard.say("Unable to update metadata from %s", [1, 2, 3])
        heard.say("Marking the coordinator dead (node %s)for group %s.", 1, "g", level=logging.WARNING)
        heard.say(
            "Got error produce response on topic-partition %s, retrying. Error: %s",
            ("t", 0),
            NotLeaderForPartitionError,
            level=logging.WARNING,
        )
        heard.clock.now += 0.5
    assert len(heard.lines) == 1 + 10  # after 10, 20, 40 ... seconds, then each 10 minutes
    assert heard.lines[0].startswith("Unable connect to node with id 1")
    left_out = sum(int(line.rpartition("(and ")[2].split()[0]) for line in heard.lines[1:])
    heard.lines.clear()
    heard.repeated.flush(heard)
    [last] = heard.lines
    assert repeated_lines.BROKER_AWAY in last
    assert left_out + int(last.rpartition("(and ")[2].split()[0]) + 11 == 7200 * 5


def test_after_a_quiet_time_the_next_outage_is_told_at_once(heard: Heard) -> None:
    heard.say("Unable to update metadata from %s", [1])
    heard.say("Unable to update metadata from %s", [1])
    heard.clock.now += 3600
    heard.say("Unable to update metadata from %s", [1])
    assert len(heard.lines) == 2
    assert "(and 1 more like it" in heard.lines[1]


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("Unable connect to node with id %s: %s", (1, SaslAuthenticationFailed("wrong password"))),
        (
            "Unable connect to node with id %s: %s",
            (1, ssl.SSLCertVerificationError(1, "certificate expired")),
        ),
        ("Got error produce response on %s, retrying. Error: %s", ("t", UnknownTopicOrPartitionError)),
        ("Got error produce response on %s, retrying. Error: %s", ("t", KafkaStorageError)),
        ("Got error produce response on %s, retrying. Error: %s", ("t", NotEnoughReplicasError)),
        ("Got error produce response on %s, retrying. Error: %s", ("t", NotEnoughReplicasAfterAppendError)),
        ("Topic %s is not authorized for this client", ("requests",)),
    ],
)
def test_what_is_no_outage_is_told_in_the_middle_of_one(heard: Heard, message: str, arguments: tuple[Any, ...]) -> None:
    heard.say("Failed fetch messages from %s: %s", 1, NodeNotReadyError())
    heard.say(message, *arguments)
    assert heard.lines[-1] == message % arguments


def test_lines_about_different_topics_are_different(heard: Heard) -> None:
    for topic in ("a", "b", "a"):
        heard.say("Topic %s not found in cluster metadata", topic)
    assert heard.lines == ["Topic a not found in cluster metadata", "Topic b not found in cluster metadata"]


def test_what_is_told_of_lines_that_differ_in_numbers_names_the_one_that_was_shown(heard: Heard) -> None:
    details = "x" * 400
    for number in range(3):
        heard.say("Heartbeat of group %s failed at node %s: %s", "c7", number, details)
    heard.repeated.flush(heard)
    first, told = heard.lines
    assert first == f"Heartbeat of group c7 failed at node 0: {details}"
    assert told == f"{first} (and 2 more like it in 0 s)"


def test_faust_does_not_tell_people_that_a_task_hangs(heard: Heard) -> None:
    heard.say("Warning: Task timed out!", name="faust.app.base", level=logging.WARNING)
    heard.say("Please make sure it's hanging before restart.", name="faust.app.base", level=logging.WARNING)
    heard.say(f"no events. {driver.SLOW_PROCESSING_CAUSE_AGENT}", name="faust.transport.drivers.aiokafka")
    heard.say(f"no events. {driver.SLOW_PROCESSING_CAUSE_STREAM}", name="faust.transport.drivers.aiokafka")
    assert heard.lines == []


@pytest.mark.parametrize("service", [InferenceApp, BatchConsumer, ConsumerThread, PatientProducer])
def test_what_faust_says_in_our_subclasses_is_not_taken_for_our_own_lines(service: Any) -> None:
    assert service.logger.name == "faust"


def test_our_own_lines_and_those_of_other_libraries_always_pass(heard: Heard) -> None:
    for name in ("streams.worker.worker", "urllib3"):
        for _ in range(3):
            heard.say("the same", name=name)
    assert len(heard.lines) == 6


def test_the_kinds_it_remembers_are_bounded(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated_lines, "_MOST_KINDS", 10)
    for letter in "abcdefghijklmnopqrstuvwxyz":
        heard.say(f"about {letter}")
    assert len(heard.repeated._kinds) == 10


def test_a_configured_process_leaves_repetitions_out_and_tells_of_them() -> None:
    stream = io.StringIO()
    configure_logging(LoggingSettings(), stream)
    for _ in range(5):
        logging.getLogger("aiokafka.sub").error("Failed fetch messages from %s: %s", 1, NodeNotReadyError())
    tell_left_out()
    tell_left_out()
    first, told = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert first.startswith("Failed fetch messages from 1")
    assert "(and 4 more like it" in told


@pytest.mark.processes
def test_a_process_that_ends_tells_what_it_left_out() -> None:
    script = (
        "import logging\n"
        "from streams.logs import configure_logging\n"
        "from streams.settings import LoggingSettings\n"
        "configure_logging(LoggingSettings())\n"
        "for number in range(3):\n    logging.getLogger('aiokafka').error('node %d is away', number)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, told = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert first == "node 0 is away"
    assert told.startswith("node 0 is away (and 2 more like it")
