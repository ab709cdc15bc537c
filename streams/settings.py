"""Settings of S3, worker, HTTP and logging, and the root of the whole tree."""

from __future__ import annotations

import os
import re
import socket
from typing import ClassVar, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from engines.config.settings import EngineSettings
from engines.deadlines import DEFAULT_TIMEOUT_S, Patience
from engines.guard import DEFAULT_MOST_STUCK
from handlers.settings import Section
from streams.kafka.settings import KafkaSettings as KafkaSettings

DEFAULT_HTTP_PORT = 8080


class S3Settings(Section):
    """The object store that holds the media."""

    endpoint_url: str | None = Field(default=None, pattern=r"^https?://\S+$", examples=["http://localhost:8333"])
    """Address of an S3-compatible store; unset is AWS itself."""
    region: str = Field(default="us-east-1", min_length=1)
    """Region; most stores but AWS ignore it."""
    access_key: str | None = None
    """Access key; unset takes boto3's own chain (environment, profile, instance role)."""
    secret_key: SecretStr | None = None
    """Secret of access_key."""
    session_token: SecretStr | None = None
    """Token of temporary credentials."""
    uploads: str | None = Field(default=None, pattern=r"^s3://[^/]+/?", examples=["s3://media/uploads"])
    """Where `inferstream upload` puts files, and `inferstream send` those too large for a message; the keys must be
    allowed to write there. Unset: nowhere."""
    connect_timeout_s: float = Field(default=5.0, gt=0, le=120)
    """Longest wait for a connection."""
    read_timeout_s: float = Field(default=20.0, gt=0, le=600)
    """Longest silence while an object is read."""
    path_style: bool = True
    """Address buckets as host/bucket; false is AWS's own bucket.host."""

    @model_validator(mode="after")
    def _key_has_its_secret(self) -> S3Settings:
        if (self.access_key is None) != (self.secret_key is None):
            given, missing = ("access_key", "secret_key") if self.access_key else ("secret_key", "access_key")
            raise ValueError(f"s3.{given} is set and s3.{missing} is not; set both, or neither")
        if self.session_token is not None and self.access_key is None:
            raise ValueError("s3.session_token is set and s3.access_key is not; set the keys it belongs to")
        return self


class WorkerSettings(Section):
    """What one worker takes on."""

    name: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}", min_length=1, examples=["gpu-7-4711"]
    )
    """Name of this worker in results, events and logs; default: host name and process id."""
    tasks: tuple[str, ...] = ()
    """Tasks to consume from Kafka; empty takes every registered one. HTTP answers every task."""
    plugins: tuple[str, ...] = ()
    """Python modules imported at start, which register handlers and engines of your own."""
    warm: tuple[str, ...] = ()
    """Models loaded before the first request: name, name@alias or name/version."""
    reply_topics: tuple[str, ...] = ()
    """Regular expressions; reply_to must match one of them as a whole. Empty refuses every reply_to."""
    max_in_flight: int = Field(default=512, gt=0, le=100_000)
    """Most requests of a partition that are taken and not committed: how far work runs ahead of a slow one. When so
    many are in work over all partitions, each is limited to its share."""
    max_in_flight_bytes: int = Field(default=512 * 1024 * 1024, gt=0)
    """Most bytes of media in memory, decoded; at least media.max_bytes."""
    batch_max_items: int = Field(default=64, gt=0, le=10_000)
    """Most requests in a batch; their cost limits a batch as well."""
    batch_wait_ms: float = Field(default=10.0, ge=0, le=60_000)
    """Longest wait of a batch for requests that are being fetched or decoded."""
    ready_without_broker_s: float | None = Field(default=60.0, ge=0, le=86_400)
    """Time without any broker after which /readyz says 503; null: never. HTTP is answered anyway."""
    infer_timeout_s: float = Field(default=DEFAULT_TIMEOUT_S, gt=0, le=86_400 * 7)
    """Longest silence of an engine in seconds, without a batch or a token. Then its requests fail as
    INFERENCE_TIMEOUT and the model is loaded again. Holds for loads, unloads and handlers too."""
    infer_timeouts: tuple[str, ...] = Field(default=(), examples=[["video-analysis=1800", "huge-model=3600"]])
    """Other values of infer_timeout_s, for a task or a model: NAME=SECONDS; the model's wins."""
    max_stuck_calls: int = Field(default=DEFAULT_MOST_STUCK, ge=0, le=100)
    """Most calls that may hang and be abandoned; with one more the worker drains and exits with 1."""
    max_crashes: int = Field(default=2, ge=1, le=100)
    """How many workers in a row may die (a crash, a kill, a hang that cannot be interrupted) while they run one
    request and nothing else; then it fails as WORKER_CRASHED and is dead-lettered."""
    drain_timeout_s: float = Field(default=120.0, gt=0, le=86_400)
    """Time to finish work after SIGTERM; beyond it the worker exits with 1."""

    @field_validator("reply_topics")
    @classmethod
    def _patterns_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return patterns

    @field_validator("infer_timeouts")
    @classmethod
    def _timeouts_are_seconds(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for one in given:
            if not re.fullmatch(r"[^=]+=(?!0*\.?0*$)\d{1,6}(\.\d+)?", one):
                raise ValueError(f"{one!r} is not NAME=SECONDS with seconds above 0, as in video-analysis=1800")
        return given

    @property
    def patience(self) -> Patience:
        """The longest silence of engines and handlers."""
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


class HttpSettings(Section):
    """The HTTP gateway: of `inferstream serve`, and of a worker where it is on."""

    enabled: bool | None = None
    """Whether a worker answers HTTP; unset: where http.port is set."""
    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on; 0.0.0.0 opens it to the network, with no login."""
    port: int | None = Field(
        default=None, ge=0, le=65_535, description=f"Port to listen on; 0 takes a free one. Unset: {DEFAULT_HTTP_PORT}."
    )
    max_body_bytes: int = Field(default=96 * 1024 * 1024, gt=0)
    """Largest request body; beyond it 413."""
    body_timeout_s: float = Field(default=60.0, gt=0, le=3600)
    """Time in which a whole body must arrive; beyond it 408."""
    max_pending: int = Field(default=256, gt=0, le=100_000)
    """Most inference requests in work; beyond it 429."""
    max_connections: int = Field(default=4096, gt=0, le=100_000)
    """Most open connections, at most half of the files that the process may open; beyond it idle connections are
    closed."""
    request_timeout_s: float = Field(default=300.0, gt=0, le=86_400)
    """Longest work on one request; beyond it 504."""

    @property
    def listens(self) -> bool:
        """Whether a worker with these settings answers HTTP."""
        return self.port is not None if self.enabled is None else self.enabled


class LoggingSettings(Section):
    """What is logged, and how it looks."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severity logged."""
    format: Literal["auto", "console", "json"] = "auto"
    """console for people, json for machines; auto: console on a terminal."""


class Settings(EngineSettings):
    """Everything a worker, a client and the command line read; frozen, so any thread may share it."""

    foreign_sections: ClassVar[frozenset[str]] = frozenset()

    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    s3: S3Settings = Field(default_factory=S3Settings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)

    @model_validator(mode="after")
    def _one_media_value_fits(self) -> Settings:
        if self.media.max_bytes > self.worker.max_in_flight_bytes:
            raise ValueError(
                f"media.max_bytes={self.media.max_bytes} is above "
                f"worker.max_in_flight_bytes={self.worker.max_in_flight_bytes}, so the largest media "
                "could never be taken in; lower the former or raise the latter"
            )
        return self
