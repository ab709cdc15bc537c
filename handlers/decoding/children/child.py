"""The main program of a child process: reads calls from standard input, one at a time, and writes answers to its
output.

Started as `python -m handlers.decoding.children.child <pid of the parent>`. A separate thread reads the input and
watches the parent: when either ends, the process ends at once, whatever native code it is in.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pkgutil
import queue
import resource
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from handlers.decoding.children import wire
from handlers.decoding.children.memory import private_bytes, trim
from handlers.errors import InferenceError


def main() -> None:
    """Answer calls until the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # for the parent, which may want to finish first
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")  # decoders warn of damaged files; the sender gets an error anyway
    output = os.dup(1)
    # What native code prints about damaged files is neither an answer nor a line of the parent's log.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    calls: queue.SimpleQueue[tuple[wire.Call, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(int(sys.argv[1]), calls), daemon=True).start()
    own_bytes = private_bytes()
    while True:
        call, content = calls.get()
        _write(output, wire.Began())
        before = private_bytes()
        try:
            function = pkgutil.resolve_name(call.function)
            logging.disable(logging.WARNING)  # the parent is told as an error, and has a format of its own
            own_bytes += private_bytes() - before
            _run(function, call, content, output)
            failure = None
        except InferenceError as error:
            failure = wire.Failure(type(error).__name__, error.message, "")
        except BaseException as error:  # noqa: BLE001 - the parent is told
            failure = wire.Failure(type(error).__name__, str(error), traceback.format_exc())
        del content
        trim()
        _write(output, wire.Done(private_bytes() - own_bytes, failure))


def _receive(parent: int, calls: queue.SimpleQueue[tuple[wire.Call, bytes]]) -> None:
    """Put arriving calls into `calls`; end the process when the parent is gone or closes the pipe."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    # Processes forked by the parent may hold the other end of the pipe, so its end alone does not suffice.
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
        head_size, block_size = wire.LENGTHS.unpack(read(wire.LENGTHS.size))
        call = wire.decode_call(read(head_size))
        calls.put((call, read(block_size)))


def _run(
    function: Callable[..., Iterator[tuple[Any, wire.Block]]], call: wire.Call, content: bytes, output: int
) -> None:
    """Write what the function yields, within the limits; what this holds on to is free when it returns.

    What it asks beyond its private memory fails or aborts it; SIGXCPU ends it after its whole seconds of work. Not the
    address space: what threads and allocators reserve there and never touch would count. Not the time by the clock: on
    a busy machine a good file would be refused permanently.
    """
    bounds = {
        resource.RLIMIT_DATA: private_bytes() + call.memory_bytes,
        resource.RLIMIT_CPU: math.ceil(time.process_time() + call.cpu_s),
    }
    usual = {which: resource.getrlimit(which) for which in bounds}
    for which, bound in bounds.items():
        _, most = usual[which]
        resource.setrlimit(which, (bound if most == resource.RLIM_INFINITY else min(bound, most), most))
    try:
        for value, block in function(content, **call.arguments):
            _write(output, wire.Item(value), block)
    finally:
        for which, before in usual.items():
            resource.setrlimit(which, before)


def _write(output: int, answer: wire.Answer, block: wire.Block = b"") -> None:
    try:
        for part in (wire.lengths_and_head(answer, block), block):
            left = memoryview(part)
            while left:
                left = left[os.write(output, left) :]
    except BrokenPipeError:
        os._exit(0)  # the parent does not read any more


if __name__ == "__main__":
    main()
