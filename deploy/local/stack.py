"""Starts and stops the parts together, and returns the settings that reach them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Event, Lock
from typing import Any, Self

from deploy.local.broker import Broker
from deploy.local.kafka_cluster import KafkaCluster, KafkaRelease
from deploy.local.mlflow_server import MlflowServer
from deploy.local.part import Part, PartStatus, StackError, start_together
from deploy.local.s3 import S3

_LOCK_TIMEOUT_S = 5.0


class LocalStack:
    """A broker, an S3 store and an MLflow server on this machine, for development, the demo and tests.

    Usage: `with LocalStack(Path(".local")) as stack: ... stack.settings() ...`. All data stays under `root` for the
    next start, except for that of the embedded broker, which is in memory; one stack at a time may use a root. The
    servers end with this process however it ends. Every part is a real server; settings alone replace it by a
    deployment.
    """

    def __init__(
        self,
        root: Path,
        *,
        on_status: Callable[[PartStatus], None] = lambda status: None,
        more: Iterable[type[Part]] = (),
        kafka: KafkaRelease | None = None,
        brokers: int = 1,
    ) -> None:
        """`on_status` is called with every change of a part, from several threads but one call at a time.

        `more` are parts beyond the three. `kafka` runs Apache Kafka in place of the embedded broker, with one or
        three `brokers`.

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

        of_a_part: dict[str, Any] = {"on_status": self.report, "abandon": self._abandon}
        self.s3, self.mlflow = S3(self.root, **of_a_part), MlflowServer(self.root, **of_a_part)
        nodes: Sequence[Part] = [Broker(self.root, **of_a_part)]
        if kafka is not None:
            nodes = KafkaCluster(self.root, kafka, brokers=brokers, **of_a_part).nodes
        self.parts = (*nodes, self.s3, self.mlflow, *(part(self.root, **of_a_part) for part in more))

    def settings(self) -> dict[str, Any]:
        """Return the settings tree that points a worker at this stack, as the S3 user of its one bucket."""
        if any(not part.ports for part in self.parts):
            raise StackError("the local stack is not started; use it as a context manager or call start()")
        return {section: values for part in self.parts for section, values in part.settings().items()}

    def start(self) -> None:
        """Start all parts side by side and return when each is healthy.

        Raises:
            StackError: permanent; a part did not start, or another stack uses the root. Nothing is left running.
        """
        self._abandon.clear()
        self.claim()
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
        """Stop all parts and return when every process is gone; idempotent. A start in progress gives up."""
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

    def report(self, status: PartStatus) -> None:
        """Hand the status of a part, or of what runs beside the stack, to `on_status`; thread-safe."""
        with self._status_lock:
            self._on_status(status)

    def claim(self) -> None:
        """Lock the root for this stack until `stop`, or raise StackError (permanent) if another has it; idempotent."""
        if self._lock_fd is not None:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        # The guards of a stack that was just killed hold its lock until their servers are gone: wait.
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock_fd = descriptor
                return
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise StackError(
                    f"another local stack uses {self.root}; stop it, or choose another folder (up: --directory DIR)"
                )
            time.sleep(0.05)
