"""Settings of the stream side (kafka, s3, worker, http, logging) and the root of the whole tree."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, SecretStr, model_validator

from engines.settings import EngineSettings
from handlers.settings import Section, UserPath
from streams.worker_settings import WorkerSettings

__all__ = [
    "DEFAULT_HTTP_PORT",
    "HttpSettings",
    "KafkaSettings",
    "LoggingSettings",
    "S3Settings",
    "Settings",
    "WorkerSettings",
]

DEFAULT_HTTP_PORT = 8080


class KafkaSettings(Section):
    """The broker, the consumer group and the topics."""

    bootstrap_servers: str = Field(
        default="localhost:9092",
        pattern=r"^[^\s,:]+:\d+(,[^\s,:]+:\d+)*$",
        description="Brokers to start from: host:port, several separated by commas.",
    )
    topic_prefix: str = Field(
        default="inference",
        pattern=r"^[A-Za-z0-9._-]{1,150}$",
        description="First part of every topic name, as in inference.requests.asr.",
    )
    group_id: str = Field(
        default="inferstream",
        min_length=1,
        description="Consumer group; workers that share it share the requests.",
    )
    group_instance_id: str | None = Field(
        default=None, description="Static membership: a name unique to this worker that survives its restart."
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="How to talk to the brokers: with or without TLS and a login."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        default=None, description="How to log in, where security_protocol is SASL_PLAINTEXT or SASL_SSL."
    )
    sasl_username: str | None = Field(default=None, description="User name for the login.")
    sasl_password: SecretStr | None = Field(default=None, description="Password for the login.")
    ssl_cafile: UserPath | None = Field(
        default=None, description="Certificates that sign the brokers'; unset takes the system's own."
    )
    ssl_certfile: UserPath | None = Field(
        default=None, description="This client's certificate, where brokers want one."
    )
    ssl_keyfile: UserPath | None = Field(default=None, description="Private key of ssl_certfile.")
    partitions: int = Field(
        default=8,
        gt=0,
        le=10_000,
        description="Least partitions of each topic: the most workers that can share one task.",
    )
    replication_factor: int = Field(
        default=1, gt=0, le=10, description="Copies of each topic; 3 in production."
    )
    session_timeout_s: float = Field(
        default=60.0,
        ge=1,
        le=1800,
        description="Silence after which the group takes a worker for dead, in seconds.",
    )
    heartbeat_interval_s: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="Time between signs of life; at most a third of session_timeout_s.",
    )
    rebalance_timeout_s: float = Field(
        default=180.0,
        ge=1,
        le=3600,
        description="Time to finish work when partitions move; above the longest batch.",
    )
    request_timeout_s: float = Field(
        default=30.0,
        ge=1,
        le=7200,
        description="Longest wait for a broker's answer; joining the group waits for rebalance_timeout_s besides.",
    )
    max_poll_records: int = Field(
        default=256,
        gt=0,
        le=10_000,
        description="Most messages taken from a topic at once; a few times as many wait beside those in flight.",
    )
    commit_interval_s: float = Field(
        default=0.5,
        gt=0,
        le=60,
        description="Most time between commits; half of worker.max_in_flight answers bring one sooner.",
    )
    fetch_max_wait_ms: int = Field(
        default=500,
        ge=0,
        le=30_000,
        description="How long a broker may hold an empty fetch; lower is busier.",
    )
    isolation_level: Literal["read_committed", "read_uncommitted"] = Field(
        default="read_committed",
        description="Whether records of transactions that are open or aborted are left out, or read like any other.",
    )
    metadata_max_age_s: float = Field(
        default=30.0,
        ge=1,
        le=3600,
        description="Most time until a worker reads partitions that were added to its topics.",
    )
    max_message_bytes: int = Field(
        default=1_000_000,
        ge=10_000,
        le=1024**3,
        description="Largest message sent; at most what the topics take.",
    )
    producer_timeout_s: float = Field(
        default=30.0,
        gt=0,
        le=600,
        description="Longest wait for a broker to take a result before it is sent again.",
    )

    @model_validator(mode="after")
    def _agree(self) -> KafkaSettings:
        faults = [*self._timing_faults(), *self._login_faults()]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _timing_faults(self) -> list[str]:
        faults = []
        if self.heartbeat_interval_s > self.session_timeout_s / 3:
            faults.append(
                f"kafka.heartbeat_interval_s={self.heartbeat_interval_s:g} is more than a third of "
                f"kafka.session_timeout_s={self.session_timeout_s:g}, so one lost beat ends the session; "
                f"set kafka.heartbeat_interval_s to {self.session_timeout_s / 3:.2g} or less"
            )
        if self.fetch_max_wait_ms >= self.request_timeout_s * 1000:
            faults.append(
                f"kafka.fetch_max_wait_ms={self.fetch_max_wait_ms} is not below "
                f"kafka.request_timeout_s={self.request_timeout_s:g}, after which an empty fetch counts as "
                "not answered; lower the former or raise the latter"
            )
        return faults

    def _login_faults(self) -> list[str]:
        faults = []
        if self.security_protocol.startswith("SASL"):
            missing = [
                f"kafka.{name}"
                for name in ("sasl_mechanism", "sasl_username", "sasl_password")
                if not getattr(self, name)
            ]
            if missing:
                faults.append(
                    f"kafka.security_protocol={self.security_protocol} also needs {', '.join(missing)}"
                )
        elif self.sasl_mechanism:
            faults.append(
                f"kafka.sasl_mechanism={self.sasl_mechanism} has no effect with "
                f"kafka.security_protocol={self.security_protocol}; set it to SASL_SSL (or SASL_PLAINTEXT)"
            )
        given = [n for n in ("ssl_cafile", "ssl_certfile", "ssl_keyfile") if getattr(self, n)]
        if given and "SSL" not in self.security_protocol:
            faults.append(
                f"kafka.{given[0]} has no effect with kafka.security_protocol={self.security_protocol}; "
                "set it to SSL or SASL_SSL"
            )
        if self.ssl_keyfile and not self.ssl_certfile:
            faults.append("kafka.ssl_keyfile needs kafka.ssl_certfile beside it")
        return faults


class S3Settings(Section):
    """The object store that holds the media."""

    endpoint_url: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        examples=["http://localhost:8333"],
        description="Address of an S3-compatible store; unset is AWS itself.",
    )
    region: str = Field(
        default="us-east-1", min_length=1, description="Region; most stores but AWS ignore it."
    )
    access_key: str | None = Field(
        default=None,
        description="Access key; unset takes boto3's own chain (environment, profile, instance role).",
    )
    secret_key: SecretStr | None = Field(default=None, description="Secret of access_key.")
    session_token: SecretStr | None = Field(default=None, description="Token of temporary credentials.")
    uploads: str | None = Field(
        default=None,
        pattern=r"^s3://[^/]+/?",
        examples=["s3://media/uploads"],
        description="Where inferstream upload puts files, and inferstream send what is too large for a message; the "
        "keys must be allowed to write there. Unset: nowhere.",
    )
    connect_timeout_s: float = Field(default=5.0, gt=0, le=120, description="Longest wait for a connection.")
    read_timeout_s: float = Field(
        default=20.0, gt=0, le=600, description="Longest silence while an object is read."
    )
    path_style: bool = Field(
        default=True, description="Address buckets as host/bucket; false is AWS's own bucket.host."
    )

    @model_validator(mode="after")
    def _key_has_its_secret(self) -> S3Settings:
        if (self.access_key is None) != (self.secret_key is None):
            given, missing = ("access_key", "secret_key") if self.access_key else ("secret_key", "access_key")
            raise ValueError(f"s3.{given} is set and s3.{missing} is not; set both, or neither")
        if self.session_token is not None and self.access_key is None:
            raise ValueError("s3.session_token is set and s3.access_key is not; set the keys it belongs to")
        return self


class HttpSettings(Section):
    """The HTTP gateway: of `inferstream serve`, and of a worker where it is on."""

    enabled: bool | None = Field(
        default=None, description="Whether a worker answers HTTP; unset: where http.port is set."
    )
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on; 0.0.0.0 opens it to the network, with no login.",
    )
    port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description=f"Port to listen on; 0 takes a free one. Unset: {DEFAULT_HTTP_PORT}.",
    )
    max_body_bytes: int = Field(
        default=96 * 1024 * 1024, gt=0, description="Largest request body; beyond it 413."
    )
    body_timeout_s: float = Field(
        default=60.0, gt=0, le=3600, description="Time in which a whole body must arrive; beyond it 408."
    )
    max_pending: int = Field(
        default=256, gt=0, le=100_000, description="Most inference requests in work; beyond it 429."
    )
    max_connections: int = Field(
        default=4096,
        gt=0,
        le=100_000,
        description="Most open connections, at most half of the files that the process may open; beyond it those that "
        "wait for a request or for the rest of one are closed.",
    )
    request_timeout_s: float = Field(
        default=300.0, gt=0, le=86_400, description="Longest work on one request; beyond it 504."
    )

    @property
    def listens(self) -> bool:
        """Whether a worker with these settings answers HTTP."""
        return self.port is not None if self.enabled is None else self.enabled


class LoggingSettings(Section):
    """What is logged, and how it looks."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severity logged."
    )
    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="console for people, json for machines; auto: console on a terminal."
    )


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
