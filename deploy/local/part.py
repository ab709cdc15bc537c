"""One server of the stack: started, waited for, restarted on its own ports, stopped; and several side by side."""

from __future__ import annotations

import contextlib
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event, RLock, Thread
from typing import Any, ClassVar, Literal

from deploy.local.ports import HOST, free_ports, is_free
from deploy.local.process import GuardedProcess

Status = Literal["starting", "ready", "failed", "stopped"]

_POLL_INTERVAL_S = 0.05
_TAIL_LINES = 20
_TAIL_BYTES = 8_192
_SAYS_TAKEN = re.compile("address (already )?in use|addrinuse", re.IGNORECASE)


class StackError(Exception):
    """Raised when a part does not start; the message names the part and shows the end of its log."""


class _PortTaken(StackError):
    """Another process took one of the ports between choosing it and listening on it."""


@dataclass(frozen=True, slots=True)
class PartStatus:
    """What a part reports whenever its status changes."""

    name: str
    status: Status
    address: str
    elapsed_s: float
    """Seconds since this start began; 0 for `stopped`."""
    detail: str = ""


class Part(ABC):
    """One server. `start` and `stop` may be called from any thread, one at a time per part.

    A subclass says which command to run and when it is healthy. Ports are chosen at the first start and kept, so that
    a stopped part restarts at the address its clients know.
    """

    name: str
    start_timeout_s: ClassVar[float]
    port_names: ClassVar[tuple[str, ...]] = ("main",)
    """What the ports are for; the first is the one in `address`."""

    def __init__(self, root: Path, *, on_status: Callable[[PartStatus], None], abandon: Event) -> None:
        """`root` is the stack's data folder; setting `abandon` ends a start in progress."""
        self.directory = root / self.name
        self.log_path = root / "logs" / f"{self.name}.log"
        self.ports: dict[str, int] = {}
        self.held_fd: int | None = None
        """An open file that lives as long as the server does: the stack's lock on its data."""
        self._on_status = on_status
        self._abandon = abandon
        self._process: GuardedProcess | None = None
        self._status: Status = "stopped"
        self._began = 0.0
        self._lock = RLock()

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return the server's command line for the chosen ports."""

    @abstractmethod
    def is_healthy(self) -> bool:
        """Return whether the server answers as it should; called until it does. An OSError means not yet."""

    def choose_ports(self) -> dict[str, int]:
        """Return a free port for each of `port_names`; called at the first start, and again if one is taken."""
        return dict(zip(self.port_names, free_ports(len(self.port_names)), strict=True))

    def settings(self) -> dict[str, Any]:
        """Return the settings, by section, that point a worker at this part; only after `start`."""
        return {}

    def prepare(self) -> None:
        """Write the files the server needs, and `run` what must end well before it; called before each start."""

    def on_healthy(self) -> None:
        """Set up what the stack promises beyond a running server; called after each start."""

    def clean_up(self) -> None:
        """Remove what the server left outside its folder; called after each end of it."""

    def environment(self) -> dict[str, str]:
        """Return the server's environment: almost nothing of ours, so that it cannot change the server."""
        kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
        return {name: os.environ[name] for name in kept if name in os.environ}

    @property
    def address(self) -> str:
        """Where clients find this part, `host:port`; empty before the first start."""
        return f"{HOST}:{self.ports[self.port_names[0]]}" if self.ports else ""

    @property
    def pid(self) -> int | None:
        """The running server's pid, None while it is not running."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def status(self) -> Status:
        """starting, ready, stopped, or failed: did not start, or died since."""
        if self._status == "ready" and self.pid is None:
            return "failed"
        return self._status

    def start(self) -> None:
        """Start the server and return when it is healthy; nothing to do where it is.

        Raises:
            StackError: permanent; it died, was late, or was told to give up. Nothing of it is left running.
        """
        with self._lock:
            if self._abandon.is_set():
                raise StackError(f"{self.name}: the stack is stopped; start it as a whole")
            if self.status == "ready":
                return
            self._began = time.monotonic()
            self._clear()
            are_kept = bool(self.ports)
            try:
                try:
                    self._start_once()
                except _PortTaken:
                    if are_kept:
                        raise
                    self._clear()
                    self.ports = {}
                    self._start_once()
            except BaseException as error:
                self._clear()
                if not are_kept:
                    self.ports = {}
                self._report("stopped" if self._abandon.is_set() else "failed", str(error))
                raise
            self._report("ready")

    def stop(self) -> None:
        """Kill the server and everything it started, and return when all are gone; harmless when repeated."""
        with self._lock:
            was_there = self._process is not None
            self._clear()
            if was_there or self._status == "failed":
                self._report("stopped")

    def run(self, argv: Sequence[str]) -> None:
        """Run a command to its end, within the time of this start; raises as `start`."""
        self._process = process = self._spawn(argv)
        while (code := process.poll()) is None:
            self._pause()
        self._clear()
        if code != 0:
            raise self._failure(f"`{' '.join(argv)}` ended with status {code}")

    def _start_once(self) -> None:
        self.ports = self.ports or self.choose_ports()
        self._report("starting")
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self.prepare()
        taken = [port for port in self.ports.values() if not is_free(port)]
        if taken:
            raise _PortTaken(f"{self.name}: another process listens on port {taken[0]}; stop it, then try again")
        self._process = self._spawn(self.command())
        self._await_healthy(self._process)
        self.on_healthy()

    def _spawn(self, argv: Sequence[str]) -> GuardedProcess:
        try:
            return GuardedProcess(
                argv, env=self.environment(), directory=self.directory, log_path=self.log_path, held_fd=self.held_fd
            )
        except OSError as error:
            raise self._failure(str(error)) from error

    def _await_healthy(self, process: GuardedProcess) -> None:
        is_healthy = False
        while not is_healthy:
            with contextlib.suppress(OSError):  # not listening yet, or not yet answering
                is_healthy = self.is_healthy()
            # The answer may be that of another server that took the port first; then ours has died by now.
            self._pause()
            if process.poll() is not None:
                failure = self._failure(f"died with status {process.poll()} while starting")
                raise _PortTaken(str(failure)) if _SAYS_TAKEN.search(str(failure)) else failure

    def _pause(self) -> None:
        if self._abandon.wait(_POLL_INTERVAL_S):
            raise StackError(f"{self.name}: the start was given up")
        if time.monotonic() > self._began + self.start_timeout_s:
            raise self._failure(f"not healthy after {self.start_timeout_s:g} s")

    def _failure(self, reason: str) -> StackError:
        return StackError(f"{self.name}: {reason}. {end_of_log(self.log_path)}")

    def _clear(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None
            self.clean_up()

    def _report(self, status: Status, detail: str = "") -> None:
        self._status = status
        elapsed_s = 0.0 if status == "stopped" else time.monotonic() - self._began
        self._on_status(PartStatus(self.name, status, self.address, elapsed_s, detail))


def end_of_log(path: Path) -> str:
    """Return the last lines of a server's log, with words that say which log it is."""
    last = b""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
        last = log.read()
    lines = last.decode(errors="replace").splitlines()[-_TAIL_LINES:] or ["(empty)"]
    return "\n".join([f"The end of {path}:", *lines])


def start_together(parts: Sequence[Part]) -> None:
    """Start `parts`, each in a thread, and return when all are healthy; those already healthy stay as they are.

    Raises:
        StackError: permanent; of the first that did not start. Others may be running or starting: stop them.
    """
    outcomes: SimpleQueue[BaseException | None] = SimpleQueue()

    def start(part: Part) -> None:
        try:
            part.start()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for the outcome
            outcomes.put(error)
        else:
            outcomes.put(None)

    for part in parts:
        # A daemon: after a Ctrl-C during its start the process could not end otherwise. It finds the start abandoned
        # and starts nothing.
        Thread(target=start, args=(part,), name=f"start-{part.name}", daemon=True).start()
    for _ in parts:
        if (error := outcomes.get()) is not None:
            raise error
