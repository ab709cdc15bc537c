"""Starts and stops the parts together and says how to reach them."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any, Self

from deploy.local.broker import Broker
from deploy.local.kafka_cluster import KafkaCluster
from deploy.local.kafka_release import KafkaRelease
from deploy.local.mlflow_server import MlflowServer
from deploy.local.ollama import Ollama
from deploy.local.part import Part, PartStatus, StackError, start_together
from deploy.local.s3 import BUCKET, S3, Credentials

_LOCK_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the running stack is reached, and as whom."""

    bootstrap_servers: str
    s3_endpoint: str
    s3_admin: Credentials
    s3_user: Credentials
    s3_bucket: str
    mlflow_uri: str
    ollama_base: str | None = None
    """None where the stack runs without an Ollama server."""


class LocalStack:
    """A broker, an S3 store and an MLflow server on this machine, for development, the demo and tests.

    Usage: `with LocalStack(Path(".local")) as stack: ... stack.endpoints ...`. All data stays under `root`, so
    a second start finds it again, but for that of the embedded broker, which has it in memory; one stack at a
    time may use a root. The servers die with this process however it ends. Every part is a real server, and
    settings alone replace it by a deployment.
    """

    def __init__(
        self,
        root: Path,
        *,
        on_status: Callable[[PartStatus], None] | None = None,
        with_ollama: bool = False,
        kafka: KafkaRelease | None = None,
        brokers: int = 1,
    ) -> None:
        """`on_status` is called with every change of a part, from several threads but one call at a time.

        `with_ollama` adds an Ollama-like server with a small model; see `deploy.local.ollama`. `kafka` runs
        Apache Kafka in place of the embedded broker, with one or three `brokers`.

        Raises:
            StackError: permanent; so many brokers cannot be.
        """
        self.root = root.absolute()
        self._on_status = on_status
        self._status_lock = Lock()
        self._abandon = Event()
        self._lock_fd: int | None = None
        if kafka is None and brokers != 1:
            raise StackError(f"{brokers} brokers need Apache Kafka; the embedded broker is always one")
        self._broker: Broker | KafkaCluster = (
            Broker(self.root, on_status=self._report, abandon=self._abandon)
            if kafka is None
            else KafkaCluster(
                self.root, kafka, brokers=brokers, on_status=self._report, abandon=self._abandon
            )
        )
        self._s3 = S3(self.root, on_status=self._report, abandon=self._abandon)
        self._mlflow = MlflowServer(self.root, on_status=self._report, abandon=self._abandon)
        self._ollama = (
            Ollama(self.root, on_status=self._report, abandon=self._abandon) if with_ollama else None
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        brokers = (self._broker,) if isinstance(self._broker, Broker) else self._broker.nodes
        parts: tuple[Part, ...] = (*brokers, self._s3, self._mlflow)
        return parts if self._ollama is None else (*parts, self._ollama)

    def part(self, name: str) -> Part:
        """Return the part called broker (of three: broker-1 and so on), s3, mlflow or ollama."""
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(f"the local stack has no part {name!r}; it has {[part.name for part in self.parts]}")

    @property
    def endpoints(self) -> Endpoints:
        """Return the addresses and identities; only after `start`."""
        if any(not part.ports for part in self.parts):
            raise StackError("the local stack is not started; use it as a context manager or call start()")
        return Endpoints(
            bootstrap_servers=self._broker.settings()["bootstrap_servers"],
            s3_endpoint=self._s3.url,
            s3_admin=self._s3.admin,
            s3_user=self._s3.user,
            s3_bucket=BUCKET,
            mlflow_uri=self._mlflow.url,
            ollama_base=None if self._ollama is None else self._ollama.url,
        )

    def settings(self) -> dict[str, Any]:
        """Return the settings tree that points a worker at this stack, as the S3 user of its one bucket."""
        endpoints = self.endpoints
        ollama = {} if endpoints.ollama_base is None else {"ollama": {"api_base": endpoints.ollama_base}}
        return {
            **ollama,
            "kafka": self._broker.settings(),
            "s3": {
                "endpoint_url": endpoints.s3_endpoint,
                "access_key": endpoints.s3_user.access_key,
                "secret_key": endpoints.s3_user.secret_key,
                "uploads": f"s3://{endpoints.s3_bucket}/uploads",
            },
            "mlflow": {"tracking_uri": endpoints.mlflow_uri},
        }

    def s3_client(self, credentials: Credentials | None = None) -> Any:
        """Return a boto3 client of the store, as its admin by default; the caller closes it."""
        return self._s3.client(credentials or self.endpoints.s3_admin)

    def start(self) -> None:
        """Start all parts side by side and return when each is healthy.

        Raises:
            StackError: permanent; a part did not start, or another stack uses the root. Nothing is left
                running.
        """
        self._abandon.clear()
        self.root.mkdir(parents=True, exist_ok=True)
        self._take_root()
        try:
            for part in self.parts:
                part.held_fd = self._lock_fd
                if part.pid is None:
                    part.log_path.unlink(missing_ok=True)
            start_together(self.parts)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all parts and return when every process is gone; harmless when repeated.

        A start in progress, in whatever thread, gives up.
        """
        self._abandon.set()
        for part in self.parts:
            part.stop()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _report(self, status: PartStatus) -> None:
        if self._on_status is not None:
            with self._status_lock:
                self._on_status(status)

    def _take_root(self) -> None:
        if self._lock_fd is not None:
            return
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        # The guards of a stack that was just killed hold its lock until their servers are gone: wait.
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise StackError(
                        f"another local stack uses {self.root}; stop it, or choose another folder (up: --directory DIR)"
                    ) from None
                time.sleep(0.05)
            else:
                self._lock_fd = descriptor
                return
