"""Guards what transformers changes for the whole process while it loads: one load at a time, and none during a run.

To load, transformers replaces functions of its own and of torch (`PreTrainedModel.tie_weights`, `torch.nn.init`,
`torch.linspace`) and the default dtype for every thread, and then restores what it found. Overlapping loads find and
restore each other's replacements: then models lose weights, in the whole process until it ends.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from engines.deadlines import DEFAULT_TIMEOUT_S
from engines.guarded_call import Call, present_call
from handlers.errors import EngineUnavailable

_PATIENCE_S = 30.0
"""How long a load waits for runs under way to end."""
_LOOK_S = 0.2
"""How often waiting threads check whether what they wait for hangs."""


@dataclass(frozen=True, slots=True)
class _Holder:
    thread: threading.Thread = field(default_factory=threading.current_thread)
    call: Call[Any] | None = field(default_factory=present_call)
    since: float = field(default_factory=time.monotonic)


class LoadLock:
    """Lets one thread load at a time. Thread-safe. Waiting here does not count as time of a guarded load. If the
    guard says that the load under way hangs, those that wait are refused: the library's replaced functions will never
    be restored."""

    def __init__(self, patience_s: float = DEFAULT_TIMEOUT_S) -> None:
        """`patience_s`: the longest time of a load that no guard watches."""
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._holder: _Holder | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Load by transformers in the body, or construct its models, while no other thread does; may be nested.

        Keep only calls of the library inside: downloads and work on a loaded model need not wait.

        Raises:
            EngineUnavailable: retryable, after a restart or at another worker; a load hangs.
        """
        if self._holder is not None and self._holder.thread is threading.current_thread():
            yield
            return
        with self._changed:
            self.wait_for(self._changed, lambda: self._holder is None)
            self._holder = _Holder()
        try:
            yield
        finally:
            with self._changed:
                self._holder = None
                self._changed.notify_all()

    def wait_for(self, changed: threading.Condition, is_so: Callable[[], bool]) -> None:
        """Wait, with `changed` held, for a condition that the end of a load makes true; otherwise as `held`."""
        waiting = present_call()
        while not is_so():
            if (problem := self.problem) is not None:
                raise EngineUnavailable(problem)
            if waiting is not None:
                waiting.waits()
            changed.wait(_LOOK_S)

    @property
    def problem(self) -> str | None:
        """The load that hangs, in a sentence; None where none does."""
        holder = self._holder
        if holder is None:
            return None
        seconds = time.monotonic() - holder.since
        if holder.call is None:
            what, hangs = f"a model load in thread {holder.thread.name}", seconds >= self._patience_s
        else:
            what, hangs = holder.call.stage.what, holder.call.is_given_up
        if not hangs:
            return None
        return (
            f"{what} has hung for {seconds:.0f} s, and models load by transformers one at a time in a process; start "
            "it again, or send the request to another worker"
        )


loads = LoadLock()
loading = loads.held


class DtypeGate:
    """Separates runs from changes of torch's default dtype. Thread-safe. A run may begin others in its thread, but
    must not wait for one in another thread: a change that waits for the first run blocks the second."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._runs = 0
        self._changes = 0
        """Changes that wait or are under way."""
        self._mine = threading.local()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run with torch's own defaults: waits for a change that is under way or about to begin.

        Raises:
            EngineUnavailable: retryable, after a restart or at another worker; the change hangs.
        """
        if getattr(self._mine, "is_inside", False):
            yield
            return
        with self._changed:
            loads.wait_for(self._changed, lambda: not self._changes)
            self._runs += 1
        self._mine.is_inside = True
        try:
            yield
        finally:
            self._mine.is_inside = False
            with self._changed:
                self._runs -= 1
                self._changed.notify_all()

    @contextmanager
    def changing(self, patience_s: float = _PATIENCE_S) -> Iterator[None]:
        """Change the defaults in the body, when no run is under way.

        Raises:
            EngineUnavailable: retryable; a run did not end in time.
        """
        if getattr(self._mine, "is_inside", False):  # this thread's load, or within another's
            yield
            return
        with self._changed:
            self._changes += 1
        self._mine.is_inside = True
        try:
            with self._changed:
                if not self._changed.wait_for(lambda: not self._runs, patience_s):
                    raise EngineUnavailable(
                        f"a model cannot be loaded while others run, and one has run for {patience_s:.0f} s "
                        "without a pause; send the request again"
                    )
            yield
        finally:
            self._mine.is_inside = False
            with self._changed:
                self._changes -= 1
                self._changed.notify_all()


_gate = DtypeGate()
running = _gate.running
"""Guards all computation on a model, also of its features: many of torch's functions read its defaults."""


def guard_transformers() -> None:
    """Make every load by transformers in this process use the lock; a second call does nothing. That includes other
    code that loads models: custom engines, a notebook that uses this package."""
    import torch
    from transformers import PreTrainedModel, modeling_utils

    with loading():
        # The one place where the default dtype is changed, for as long as a model without weights is made.
        change = modeling_utils.local_torch_dtype
        if hasattr(change, "is_guarded"):
            return
        for name in ("from_pretrained", "_from_config"):
            setattr(PreTrainedModel, name, classmethod(loading()(vars(PreTrainedModel)[name].__func__)))

        @functools.wraps(change)
        @contextmanager
        def apart_from_runs(dtype: torch.dtype, *args: Any, **kwargs: Any) -> Iterator[None]:
            is_change = dtype != torch.get_default_dtype()
            with _gate.changing() if is_change else nullcontext(), change(dtype, *args, **kwargs):
                yield

        guarded: Any = apart_from_runs
        guarded.is_guarded = True
        modeling_utils.local_torch_dtype = guarded
