"""Runs stages of handlers on the event loop while they are quick there, and interrupts one that is not."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ParamSpec, TypeVar

from handlers.logger import get_logger

log = get_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

QUICK_S = 0.002
"""What a stage may take on the event loop; where it takes longer it runs in threads from then on."""

_PROOF = 3
"""Long calls in a row that are proof. One is none: a busy machine may have stopped this process in its midst."""

_LONGEST_S = 1.0
"""What a call on the event loop may take before it is interrupted."""

_LOOK_EVERY_S = 0.25
_LOOKS = 3
"""How often it is looked at before: the time alone tells nothing where the process was frozen meanwhile."""

_WHILE_IT_WAITS = signal.SIGURG
"""A thread sends it. Nobody else has a use for it, and where it is not handled it does nothing."""
_WHILE_IT_WORKS = signal.SIGVTALRM
"""A timer of the processor's time sends it: no thread runs while a regular expression is matched."""

_IMPORTING = "<frozen importlib._bootstrap>"


class HeldUp(BaseException):
    """Raised in a call on the event loop that takes too long there; it is to be made again, in a thread.

    No Exception, so that code which tries again after every error does not go on.
    """


class SlowStageDetector:
    """Remembers how long stages of handlers took on the event loop, of which it is a part.

    A stage is taken for quick until it has proved otherwise. A hop to a thread and back costs more than most
    of them.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._long_calls: dict[tuple[Hashable, str], int] = {}
        self._slow: set[tuple[Hashable, str]] = set()
        self._under_way: tuple[Hashable, str] | None = None
        """The call that runs on the event loop; another object for each."""
        self._is_interrupted = False
        """Whether HeldUp was raised in that call."""

    def is_quick(self, of: Hashable, *stages: str) -> bool:
        """Return whether these stages of `of`, a handler's class or the like, may run on the event loop."""
        return not self._slow or not any((of, stage) in self._slow for stage in stages)

    def run(self, of: Hashable, stage: str, call: Callable[P, R], *args: P.args, **kw: P.kwargs) -> R:
        """Return what `call` returns, which runs here and now, on the event loop; raise what it raises.

        Raises:
            HeldUp: it was interrupted as it took too long, and belongs in a thread from now on.
        """
        started = self._clock()
        key = (of, stage)
        self._is_interrupted = False
        try:
            self._under_way = key
            return call(*args, **kw)
        except BaseException as error:
            self._under_way = None
            if not self._is_interrupted:
                raise
            self._move(key)
            raise HeldUp from error  # whatever it made of the interrupt
        finally:
            self._under_way = None
            if self._clock() - started > QUICK_S:
                self._long_calls[key] = self._long_calls.get(key, 0) + 1
                if self._long_calls[key] >= _PROOF:
                    self._move(key)
            elif self._long_calls:
                self._long_calls.pop(key, None)

    @contextmanager
    def interrupting(self, limit_s: float) -> Iterator[None]:
        """Interrupt what `run` calls in the main thread during the block where it takes about a second.

        That ends sleeps, loops and waits of Python code, and of C code that heeds signals. An import goes on for half
        of `limit_s`: one that was broken off may not work a second time.
        """
        main = threading.main_thread()
        if threading.current_thread() is not main:
            yield
            return
        is_over = threading.Event()
        seen: tuple[Hashable, str] | None = None
        since, looks = 0.0, 0

        def look(_number: int, frame: FrameType | None) -> None:
            nonlocal seen, since, looks
            if (call := self._under_way) is None:
                return
            now = time.monotonic()
            if call is not seen:
                seen, since, looks = call, now, 0
            looks += 1
            held_s = now - since
            if looks > _LOOKS and held_s > _LONGEST_S and (held_s > limit_s / 2 or not _imports(frame)):
                since, looks = now, 0  # what it does to clean up has as long before the next interrupt
                self._is_interrupted = True
                raise HeldUp

        def wake() -> None:
            while not is_over.wait(_LOOK_EVERY_S):
                if self._under_way is not None:
                    signal.pthread_kill(main.ident or 0, _WHILE_IT_WAITS)

        before = {number: signal.signal(number, look) for number in (_WHILE_IT_WAITS, _WHILE_IT_WORKS)}
        signal.siginterrupt(_WHILE_IT_WORKS, False)  # it may come to a thread that waits for something else
        signal.setitimer(signal.ITIMER_VIRTUAL, _LOOK_EVERY_S, _LOOK_EVERY_S)
        waking = threading.Thread(target=wake, name="watch of stages", daemon=True)
        waking.start()
        try:
            yield
        finally:
            is_over.set()
            waking.join()
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _move(self, key: tuple[Hashable, str]) -> None:
        if key not in self._slow:
            self._slow.add(key)
            of, stage = key
            log.info("stage_moved_to_threads", handler=getattr(of, "__name__", of), stage=stage)


def _imports(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            return True
        frame = frame.f_back
    return False
