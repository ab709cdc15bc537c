"""Settings of what one worker takes on, and for how long."""

from __future__ import annotations

import os
import re
import socket

from pydantic import Field, field_validator, model_validator

from engines.deadlines import DEFAULT_TIMEOUT_S, Patience
from engines.guard import DEFAULT_MOST_STUCK
from handlers.settings import Section


class WorkerSettings(Section):
    """What one worker takes on."""

    name: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
        min_length=1,
        examples=["gpu-7-4711"],
        description="Name of this worker in results, events and logs; default: host name and process id.",
    )
    tasks: tuple[str, ...] = Field(
        default=(),
        description="Tasks to consume from Kafka; empty takes every registered one. HTTP answers every task.",
    )
    plugins: tuple[str, ...] = Field(
        default=(),
        description="Python modules imported at start, which register handlers and engines of your own.",
    )
    warm: tuple[str, ...] = Field(
        default=(), description="Models loaded before the first request: name, name@alias or name/version."
    )
    reply_topics: tuple[str, ...] = Field(
        default=(),
        description="Regular expressions of which reply_to must match one in full; empty refuses it.",
    )
    max_in_flight: int = Field(
        default=512,
        gt=0,
        le=100_000,
        description="Most requests of a partition that are taken and not committed, and so how far work runs ahead "
        "of a slow one; of all partitions, how many are in work before each keeps to its share.",
    )
    max_in_flight_bytes: int = Field(
        default=512 * 1024 * 1024,
        gt=0,
        description="Most bytes of media in memory, decoded; at least media.max_bytes.",
    )
    batch_max_items: int = Field(
        default=64,
        gt=0,
        le=10_000,
        description="Most requests run on a model together; what they cost limits a batch besides.",
    )
    batch_wait_ms: float = Field(
        default=10.0,
        ge=0,
        le=60_000,
        description="How long a batch waits for requests that are being fetched or decoded, at most.",
    )
    ready_without_broker_s: float | None = Field(
        default=60.0,
        ge=0,
        le=86_400,
        description="Time without any broker after which /readyz says 503; null: never. HTTP is answered anyway.",
    )
    infer_timeout_s: float = Field(
        default=DEFAULT_TIMEOUT_S,
        gt=0,
        le=86_400 * 7,
        description="Seconds in which an engine gives nothing back, neither a batch nor a token, after which its "
        "requests fail as INFERENCE_TIMEOUT and the model is loaded again; so with loads, unloads and handlers.",
    )
    infer_timeouts: tuple[str, ...] = Field(
        default=(),
        examples=[["video-analysis=1800", "huge-model=3600"]],
        description="Other values of infer_timeout_s, for a task or a model: NAME=SECONDS; the model's goes first.",
    )
    max_stuck_calls: int = Field(
        default=DEFAULT_MOST_STUCK,
        ge=0,
        le=100,
        description="Most calls that may hang and be replaced; with one more the worker drains and exits with 1.",
    )
    drain_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Time to finish work after SIGTERM; beyond it the worker exits with 1.",
    )

    @field_validator("reply_topics")
    @classmethod
    def _patterns_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns

    @field_validator("infer_timeouts")
    @classmethod
    def _timeouts_are_seconds(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for one in given:
            if not re.fullmatch(r"[^=]+=(?!0*\.?0*$)\d{1,6}(\.\d+)?", one):
                raise ValueError(
                    f"{one!r} is not NAME=SECONDS with seconds above 0, as in video-analysis=1800"
                )
        return given

    @property
    def patience(self) -> Patience:
        """How long engines and handlers may give nothing back."""
        own = (one.split("=") for one in self.infer_timeouts)
        return Patience(self.infer_timeout_s, {name.strip(): float(seconds) for name, seconds in own})

    @model_validator(mode="after")
    def _a_batch_can_fill(self) -> WorkerSettings:
        if self.batch_max_items > self.max_in_flight:
            raise ValueError(
                f"worker.batch_max_items={self.batch_max_items} can never be reached with "
                f"worker.max_in_flight={self.max_in_flight}; lower the former or raise the latter"
            )
        return self
