"""What runs in a child process: calls come in by its standard input, one at a time, and answers leave by its output.

Started as `python -m handlers.decoding.children.child <pid of the parent>`. A separate thread reads the input and
watches the parent: when either ends, the process ends at once, whatever native code it is in.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import queue
import resource
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

from handlers.decoding.children.wire import (
    LENGTHS,
    Answer,
    Began,
    Block,
    Call,
    Done,
    Failure,
    Item,
    decode_call,
    lengths_and_head,
)
from handlers.errors import InferenceError

_PAGE_BYTES = resource.getpagesize()


def main() -> None:
    """Answer calls until the parent is gone."""
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            signal_number, signal.SIG_IGN
        )  # they are for the parent, which may want to finish first
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")  # decoders warn of files that are damaged; their sender gets an error
    output = os.dup(1)
    # What native code prints about damaged files is neither an answer nor a line of the parent's log.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    calls: queue.SimpleQueue[tuple[Call, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(int(sys.argv[1]), calls), daemon=True).start()
    while True:
        call, content = calls.get()
        _answer(call, content, output)


def _receive(parent: int, calls: queue.SimpleQueue[tuple[Call, bytes]]) -> None:
    """Put what arrives into `calls`; end the process when the parent is gone or wants no more."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    # Other processes may hold the other end of the pipe (those forked by the parent), so it tells too little.
    with contextlib.suppress(OSError, AttributeError):
        poll.register(os.pidfd_open(parent), select.POLLIN)
    if os.getppid() != parent:
        os._exit(0)

    def read(size: int) -> bytes:
        read = bytearray()
        while len(read) < size:
            ready = [fd for fd, _ in poll.poll()]
            if ready != [0] or not (part := os.read(0, min(size - len(read), 1 << 20))):
                os._exit(0)
            read += part
        return bytes(read)

    while True:
        head_size, block_size = LENGTHS.unpack(read(LENGTHS.size))
        call = decode_call(read(head_size))
        calls.put((call, read(block_size)))


def _answer(call: Call, content: bytes, output: int) -> None:
    """Run a call, and write all that comes of it."""
    last: Answer
    _write(output, lengths_and_head(Began()))
    try:
        with _bounded(call.memory_bytes, call.cpu_s):
            module, _, name = call.function.partition(":")
            function = getattr(importlib.import_module(module), name)
            _quiet_logs()
            for value, block in function(content, **call.arguments):
                _write(output, lengths_and_head(Item(value), block))
                _write(output, block)
        last = Done(_resident_bytes())
    except InferenceError as error:
        last = Failure(type(error).__name__, error.message, "")
    except BaseException as error:  # noqa: BLE001 - the parent is told
        last = Failure(type(error).__name__, str(error), traceback.format_exc())
    _write(output, lengths_and_head(last))


def _quiet_logs() -> None:
    """Keep decoders from logging what the parent is told as an error anyway, and in another format than its own."""
    logging.disable(logging.WARNING)


@contextlib.contextmanager
def _bounded(memory_bytes: int, cpu_s: float) -> Iterator[None]:
    """Let the process have no more private memory than that, and take no more whole seconds of work.

    What it asks beyond that memory fails or aborts it; SIGXCPU ends it after that work. Not the address space: what
    threads and allocators reserve there and never touch would count. Not the time by the clock: on a busy machine a
    good file would be refused for good.
    """
    bounds = {resource.RLIMIT_DATA: memory_bytes, resource.RLIMIT_CPU: math.ceil(time.process_time() + cpu_s)}
    usual = {which: resource.getrlimit(which) for which in bounds}
    for which, bound in bounds.items():
        _, most = usual[which]
        resource.setrlimit(which, (bound if most == resource.RLIM_INFINITY else min(bound, most), most))
    try:
        yield
    finally:
        for which, before in usual.items():
            resource.setrlimit(which, before)


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _write(output: int, block: Block) -> None:
    left = memoryview(block)
    try:
        while left:
            left = left[os.write(output, left) :]
    except BrokenPipeError:
        os._exit(0)  # nobody reads any more


if __name__ == "__main__":
    main()
