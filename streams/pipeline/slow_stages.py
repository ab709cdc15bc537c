"""Runs stages of handlers on the event loop while they are quick, and interrupts one that is not."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ParamSpec, TypeVar

from handlers.logger import get_logger

log = get_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

QUICK_S = 0.002
"""Longest time of a stage on the event loop; one that takes longer runs in threads from then on."""

_PROOF = 3
"""How many long calls in a row prove a stage slow. One does not: a busy machine may have stopped this process."""

_LONGEST_S = 1.0
"""Longest time of a call on the event loop before it is interrupted."""

_LOOK_EVERY_S = 0.25
_LOOKS = 3
"""How often it is checked before that: time alone proves nothing where the process was frozen meanwhile."""

_WHILE_IT_WAITS = signal.SIGURG
"""A thread sends this signal. Nothing else uses it, and without a handler it does nothing."""
_WHILE_IT_WORKS = signal.SIGVTALRM
"""A timer of processor time sends this signal: no thread runs while a regular expression is matched."""

_IMPORTING = "<frozen importlib._bootstrap>"


class HeldUp(BaseException):
    """Raised in a call on the event loop that takes too long; the call must be repeated in a thread.

    A BaseException, so that code which retries after every Exception does not go on.
    """


class SlowStageDetector:
    """Measures stages of handlers on the event loop, and remembers which are slow.

    A stage counts as quick until it has proved otherwise: a hop to a thread and back costs more than most stages.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._long_calls: dict[tuple[Hashable, str], int] = {}
        self._slow: set[tuple[Hashable, str]] = set()
        self._under_way: tuple[Hashable, str] | None = None
        """The call that runs on the event loop; a new object for each call."""
        self._is_interrupted = False
        """Whether HeldUp was raised in that call."""

    def is_quick(self, of: Hashable, stage: str) -> bool:
        """Return whether this stage of `of`, such as a handler's class, may run on the event loop."""
        return not self._slow or (of, stage) not in self._slow

    def run(self, of: Hashable, stage: str, call: Callable[P, R], *args: P.args, **kw: P.kwargs) -> R:
        """Return what `call` returns and raise what it raises; it runs here, on the event loop.

        Raises:
            HeldUp: it took too long and was interrupted; run it in a thread from now on.
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
            raise HeldUp from error  # whatever it did with the interrupt
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
        """During the block, interrupt a call of `run` in the main thread that takes about a second.

        That ends sleeps, loops and waits of Python code, and of C code that handles signals. An import may take half
        of `limit_s`: one that was interrupted may not work a second time.
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
                since, looks = now, 0  # its clean-up has as long before the next interrupt
                self._is_interrupted = True
                raise HeldUp

        def wake() -> None:
            while not is_over.wait(_LOOK_EVERY_S):
                if self._under_way is not None:
                    signal.pthread_kill(main.ident or 0, _WHILE_IT_WAITS)

        before = {number: signal.signal(number, look) for number in (_WHILE_IT_WAITS, _WHILE_IT_WORKS)}
        signal.siginterrupt(_WHILE_IT_WORKS, False)  # it may reach a thread that waits for something else
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
    return any(outer.f_code.co_filename == _IMPORTING for outer, _ in traceback.walk_stack(frame))
