"""Child processes for decoding what may crash, hang or take all memory; several at a time, started on demand."""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from handlers import errors
from handlers.decoding.children import wire
from handlers.decoding.children.memory import is_at_its_limit
from handlers.logger import get_logger

log = get_logger(__name__)

_MOST_KEPT_BYTES = 64 << 20
"""A child that keeps more memory than this after its calls is replaced."""

_LOOK_S = 0.5
"""How often a silent child is checked, in seconds."""

_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(8 << 20)}
"""Makes glibc return large blocks to the system when they are freed. Else it learns to keep ever larger ones."""

_CHUNK = 1 << 20

_MOST_WAIT = 4

_BYTES_A_PIXEL, _BYTES_BESIDES = 20, 256 << 20
"""Most memory of image decoders: WebP 16 bytes a pixel, and the tables of a file."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many children may work at the same time, and the limits of one call."""

    processes: int
    memory_bytes: int
    timeout_s: float
    """In seconds of work; a call that waits for a processor of a busy machine may take `_MOST_WAIT` times that."""
    timeout_setting: str = "media.decode_timeout_s"
    memory_settings: str = "media.decode_memory_bytes allows"
    """The setting of `memory_bytes`, for a message."""

    def for_images(self, max_pixels: int) -> Self:
        """Return limits with at least the memory that an image of so many pixels takes, of any format."""
        needed = _BYTES_A_PIXEL * max_pixels + _BYTES_BESIDES
        if needed <= self.memory_bytes:
            return self
        settings = "media.decode_memory_bytes and media.max_image_pixels allow"
        return replace(self, memory_bytes=needed, memory_settings=settings)


class ChildEnded(Exception):
    """Raised when a child ended before its answer: out of `time` or `memory`, by a `crash`, or `killed` from outside.

    `detail` is what is known of it, for a message.
    """

    def __init__(self, reason: Literal["time", "memory", "crash", "killed"], detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def refusal(self, what: str, limits: Limits, *, cure: str) -> errors.InferenceError:
        """Return the error about `what` for the caller; `cure` is what to do, to follow a colon."""
        if self.reason == "killed":
            return errors.OutOfMemory(
                f"the process that decoded {what} was killed from outside, most likely as the machine has no "
                "memory left; try again"
            )
        if self.reason == "crash":
            return errors.MediaCorrupt(f"{what} is damaged: it makes its decoder crash ({self.detail}); {cure}")
        if self.reason == "time":
            needs = f"longer to decode than {limits.timeout_setting} allows ({limits.timeout_s:g} s)"
        else:
            needs = f"more memory to decode than {limits.memory_settings} ({limits.memory_bytes} bytes)"
        return errors.MediaTooLarge(f"{what} takes {needs}: {cure}")


class ChildPool:
    """Runs functions in child processes, one call in each at a time. Safe from any thread; a call blocks.

    A child serves many calls and ends with this process, however that ends. One that ends while it runs a call
    takes that call with it; one that ended before it began is replaced, and the call runs in the new one. After a
    fork the pool of the forked process is empty.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._idle: list[_Child] = []
        self._busy = 0
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.close)

    def call(
        self, function: str, content: wire.Block, arguments: dict[str, Any], limits: Limits
    ) -> Generator[tuple[Any, bytearray], None, None]:
        """Yield what `function` ("module:name") yields for `content` and `arguments`, one pair at a time.

        Waits while `limits.processes` children are busy. The time is the child's own work, from when it is free.

        Raises:
            ChildEnded: the call took more than `limits`, or ended its process.
            InferenceError: what the function raised of that tree.
            InternalError: permanent; the function raised anything else, which is logged.
        """
        call = wire.Call(function, arguments, limits.memory_bytes, limits.timeout_s)
        with self._changed:
            while self._busy >= limits.processes:
                self._changed.wait()
            self._busy += 1
            child = self._idle.pop() if self._idle else None
        until = time.monotonic() + _MOST_WAIT * limits.timeout_s
        try:
            if child is not None and not child.begins(call, content, until):
                child.end()  # it ended while it was idle, so this call is not the cause
                child = None
            if child is None:
                child = _Child()
                if not child.begins(call, content, until):
                    raise child.ended()
            yield from child.answers(call, until)
        finally:
            fit = [child] if child is not None and child.is_fit else []
            if child is not None and not fit:
                child.end()
            with self._changed:
                self._busy -= 1
                self._idle += fit
                self._changed.notify()

    def close(self) -> None:
        """End the children that are idle."""
        with self._changed:
            idle, self._idle = self._idle, []
        for child in idle:
            child.end()

    def _forget(self) -> None:
        """After a fork, leave the children to the parent process."""
        idle, self._idle, self._busy = self._idle, [], 0
        self._changed = threading.Condition()
        for child in idle:
            child.forget()


class _Child:
    """One process and its pipes; for one thread at a time."""

    def __init__(self) -> None:
        # It imports from the same places as this process: also in a notebook, or where nothing is installed.
        paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "handlers.decoding.children.child", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, **_ALLOCATOR, "PYTHONPATH": paths},
            start_new_session=True,  # signals of the terminal are for the parent
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self.is_fit = True
        """Whether it waits for its next call."""

    def begins(self, call: wire.Call, content: wire.Block, until: float) -> bool:
        """Send a call, and tell whether the child began to run it, else it has ended; raise as `_wait` does."""
        self.is_fit = False  # unless its answer is read to the end
        try:
            self._write(wire.lengths_and_head(call, content), until)
            self._write(content, until)
            return isinstance(self._answer(call, until)[0], wire.Began)
        except (BrokenPipeError, EOFError):
            return False

    def answers(self, call: wire.Call, until: float) -> Iterator[tuple[Any, bytearray]]:
        """Yield the items of the call that the child began; see `ChildPool.call`."""
        while True:
            try:
                answer, block = self._answer(call, until)
            except EOFError:
                raise self.ended() from None
            match answer:
                case wire.Item(value):
                    yield value, block
                case wire.Done(kept_bytes, failure):
                    self.is_fit = kept_bytes < _MOST_KEPT_BYTES and not (failure and failure.trace)
                    if failure:
                        raise _as_error(failure, call)
                    return

    def end(self) -> None:
        """End the process, close its pipes, and wait until it has ended."""
        with self._process:
            self._process.kill()

    def forget(self) -> None:
        """Close the pipes of a process that is not a child of this one."""
        with self._process:
            self._process.returncode = 0  # else it would be waited for

    def _answer(self, call: wire.Call, until: float) -> tuple[wire.Answer, bytearray]:
        head_size, block_size = wire.LENGTHS.unpack(self._read(wire.LENGTHS.size, until))
        if head_size + block_size > call.memory_bytes:
            raise ChildEnded("memory", f"an answer of {head_size + block_size} bytes")
        return wire.decode_answer(self._read(head_size, until)), self._read(block_size, until)

    def _write(self, block: wire.Block, until: float) -> None:
        left = memoryview(block)
        while left:
            self._wait(self._in, select.POLLOUT, until)
            with contextlib.suppress(BlockingIOError):
                left = left[os.write(self._in, left[:_CHUNK]) :]

    def _read(self, size: int, until: float) -> bytearray:
        read = bytearray(size)
        left = memoryview(read)
        while left:
            self._wait(self._out, select.POLLIN, until)
            with contextlib.suppress(BlockingIOError):
                count = os.readv(self._out, [left])
                if not count:
                    raise EOFError
                left = left[count:]
        return read

    def _wait(self, pipe: int, event: int, until: float) -> None:
        """Wait until the child reads or writes.

        Raises:
            ChildEnded: the time is over, or the child has long had no memory left: where there is none to handle
                the error, Python 3.11 raises it again and again.
        """
        poll = select.poll()
        poll.register(pipe, event)
        looks_at_limit = 0
        while not poll.poll(max(0.0, min(_LOOK_S, until - time.monotonic())) * 1000):
            if time.monotonic() >= until:
                raise ChildEnded("time", "no answer in time")
            looks_at_limit = looks_at_limit + 1 if is_at_its_limit(self._process.pid) else 0
            if looks_at_limit > 1:
                raise ChildEnded("memory", "nothing left")

    def ended(self) -> ChildEnded:
        """Return why the process ended, which it does now or did before."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return ChildEnded("crash", "its pipes closed")
        if code >= 0:
            return ChildEnded("crash", f"status {code}")
        name = signal.Signals(-code).name
        # What the kernel does at the limit of time, native code that gets no memory, and the kernel without memory.
        reasons: dict[int, Literal["time", "memory", "killed"]] = {
            signal.SIGXCPU: "time",
            signal.SIGABRT: "memory",
            signal.SIGKILL: "killed",
        }
        return ChildEnded(reasons.get(-code, "crash"), name)


def _as_error(failure: wire.Failure, call: wire.Call) -> Exception:
    if failure.kind == "MemoryError":
        return ChildEnded("memory", failure.kind)
    kind = getattr(errors, failure.kind, None)
    if not failure.trace and isinstance(kind, type) and issubclass(kind, errors.InferenceError):
        return kind(failure.message)
    log.error("decoder_failed", function=call.function, error=failure.message, trace=failure.trace)
    return errors.InternalError(f"an unexpected {failure.kind} stopped the decoding; it is logged with its stack trace")


documents = ChildPool()
pictures = ChildPool()
"""The children for images and videos; documents have other children, so that neither blocks the other."""
