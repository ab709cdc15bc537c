"""Settings of the Kafka side: all that a client needs, and a part of the whole tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, SecretStr, model_validator

from handlers.settings import Section, UserPath


class KafkaSettings(Section):
    """The broker, the consumer group and the topics."""

    bootstrap_servers: str = Field(default="localhost:9092", pattern=r"^[^\s,:]+:\d+(,[^\s,:]+:\d+)*$")
    """Brokers to start from: host:port, several separated by commas."""
    topic_prefix: str = Field(default="inference", pattern=r"^[A-Za-z0-9._-]{1,150}$")
    """First part of every topic name, as in inference.requests.asr."""
    group_id: str = Field(default="inferstream", min_length=1)
    """Consumer group; workers that share it share the requests."""
    group_instance_id: str | None = None
    """Static membership: a name unique to this worker that survives its restart."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How to talk to the brokers: with or without TLS and a login."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """How to log in, where security_protocol is SASL_PLAINTEXT or SASL_SSL."""
    sasl_username: str | None = None
    """User name for the login."""
    sasl_password: SecretStr | None = None
    """Password for the login."""
    ssl_cafile: UserPath | None = None
    """Certificates that sign the brokers'; unset takes the system's own."""
    ssl_certfile: UserPath | None = None
    """This client's certificate, where brokers want one."""
    ssl_keyfile: UserPath | None = None
    """Private key of ssl_certfile."""
    partitions: int = Field(default=8, gt=0, le=10_000)
    """Least partitions of each topic: the most workers that can share one task."""
    replication_factor: int = Field(default=1, gt=0, le=10)
    """Copies of each topic; 3 in production."""
    session_timeout_s: float = Field(default=60.0, ge=1, le=1800)
    """Silence after which the group takes a worker for dead, in seconds."""
    heartbeat_interval_s: float = Field(default=10.0, gt=0, le=600)
    """Time between signs of life; at most a third of session_timeout_s."""
    rebalance_timeout_s: float = Field(default=180.0, ge=1, le=3600)
    """Time to finish work when partitions move; above the longest batch."""
    request_timeout_s: float = Field(default=30.0, ge=1, le=7200)
    """Longest wait for a broker's answer; joining the group waits for rebalance_timeout_s besides."""
    max_poll_records: int = Field(default=256, gt=0, le=10_000)
    """Most messages taken from a topic at once; a few times as many wait beside those in flight."""
    commit_interval_s: float = Field(default=0.5, gt=0, le=60)
    """Most time between commits; half of worker.max_in_flight answers bring one sooner."""
    fetch_max_wait_ms: int = Field(default=500, ge=0, le=30_000)
    """How long a broker may hold an empty fetch; lower is busier."""
    isolation_level: Literal["read_committed", "read_uncommitted"] = "read_committed"
    """Whether records of transactions that are open or aborted are left out, or read like any other."""
    metadata_max_age_s: float = Field(default=30.0, ge=1, le=3600)
    """Most time until a worker reads partitions that were added to its topics."""
    max_message_bytes: int = Field(default=1_000_000, ge=10_000, le=1024**3)
    """Largest message sent; at most what the topics take."""
    producer_timeout_s: float = Field(default=30.0, gt=0, le=600)
    """Longest wait for a broker to take a result before it is sent again."""

    @property
    def answer_in_rebalance_s(self) -> float:
        """Seconds for which requests in work are answered when partitions move.

        A heartbeat brings word of a rebalance, and commit and join must come before rebalance_timeout_s is over.
        """
        return max(self.rebalance_timeout_s / 2, self.rebalance_timeout_s - 3 * self.heartbeat_interval_s)

    @model_validator(mode="after")
    def _agree(self) -> KafkaSettings:
        if faults := list(self._faults()):
            raise ValueError("\n".join(faults))
        return self

    def _faults(self) -> Iterator[str]:
        if self.heartbeat_interval_s > self.session_timeout_s / 3:
            yield (
                f"kafka.heartbeat_interval_s={self.heartbeat_interval_s:g} is more than a third of "
                f"kafka.session_timeout_s={self.session_timeout_s:g}, so one lost beat ends the session; "
                f"set kafka.heartbeat_interval_s to {self.session_timeout_s / 3:.2g} or less"
            )
        if self.fetch_max_wait_ms >= self.request_timeout_s * 1000:
            yield (
                f"kafka.fetch_max_wait_ms={self.fetch_max_wait_ms} is not below "
                f"kafka.request_timeout_s={self.request_timeout_s:g}, after which an empty fetch counts as "
                "not answered; lower the former or raise the latter"
            )
        given = f"kafka.security_protocol={self.security_protocol}"
        if self.security_protocol.startswith("SASL"):
            needed = ("sasl_mechanism", "sasl_username", "sasl_password")
            if missing := [f"kafka.{name}" for name in needed if not getattr(self, name)]:
                yield f"{given} also needs {', '.join(missing)}"
        elif self.sasl_mechanism:
            yield (
                f"kafka.sasl_mechanism={self.sasl_mechanism} has no effect with {given}; "
                "set it to SASL_SSL (or SASL_PLAINTEXT)"
            )
        files = [name for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile") if getattr(self, name)]
        if files and "SSL" not in self.security_protocol:
            yield f"kafka.{files[0]} has no effect with {given}; set it to SSL or SASL_SSL"
        if self.ssl_keyfile and not self.ssl_certfile:
            yield "kafka.ssl_keyfile needs kafka.ssl_certfile beside it"
