"""The two servers of http-share, each as a process of its own on a free port: ours, and LitServe."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local.ports import free_ports
from tests.integration.worker_process import Site

_START_TIMEOUT_S = 90.0


class ServerProcess:
    """A server that runs during the block, at `url`; it is killed at its end with what it started."""

    def __init__(self, command: list[str], port: int, log_path: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self._command = command
        self._log_path = log_path

    def __enter__(self) -> Self:
        around = {name: value for name, value in os.environ.items() if not name.startswith("INFERSTREAM_")}
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=around,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, 9)  # LitServe's workers are processes of their own
        self._process.wait()

    @property
    def pid(self) -> int:
        """The process that listens."""
        return self._process.pid

    async def listening(self) -> Self:
        """Return once the server takes connections.

        Raises:
            AssertionError: it died, or was not ready in time.
        """
        late = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                is_dead = self._process.poll() is not None or time.monotonic() > late
                assert not is_dead, self._log_path.read_text()
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return self


def ours(site: Site) -> ServerProcess:
    """Return `inferstream serve` with the settings of `site`."""
    [port] = free_ports(1)
    command = [sys.executable, "-m", "streams.cli", "--config", str(site.config_path)]
    return ServerProcess([*command, "--set", f"http.port={port}", "serve"], port, site.directory / "serve.log")


def litserve(site: Site, *, is_batched: bool) -> ServerProcess:
    """Return LitServe with the same engine, one worker process."""
    [port] = free_ports(1)
    command = [sys.executable, "-m", "examples.bench.litserve_noop", "--port", str(port)]
    return ServerProcess([*command, *(["--batched"] if is_batched else [])], port, site.directory / "litserve.log")
