"""What transformers changes for the whole process while it loads: one load at a time, and none under a run.

To load, transformers replaces functions of its own and of torch (`PreTrainedModel.tie_weights`, `torch.nn.init`,
`torch.linspace`) and the default dtype for every thread, and then puts back what it found. Loads that overlap find,
use and leave behind each other's replacements: weights stay out of a model, in the whole process until it ends.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from handlers.errors import EngineUnavailable

_PATIENCE_S = 30.0
"""How long a load waits for the runs under way to end."""

_lock = threading.RLock()


@contextmanager
def loading() -> Iterator[None]:
    """Load by transformers in the body, or construct its models, while no other thread does; may be nested.

    Only what needs the library belongs here: downloads, and what is done with a model that is there, need not wait.
    """
    with _lock:
        yield


class DtypeGate:
    """Keeps runs and changes of torch's default dtype apart. Thread-safe.

    A run may begin others in its thread, but must not wait for one in another thread: a change that waits for the
    first keeps the second out.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._runs = 0
        self._changes = 0
        """Those that wait or are under way."""
        self._mine = threading.local()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run with torch's own defaults: waits for a change that is under way or about to begin."""
        if getattr(self._mine, "is_inside", False):
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._changes)
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
        """Change the defaults in the body, once no run is under way.

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
"""Guards everything that computes on a model, its features included: many of torch's functions read its defaults."""


def guard_transformers() -> None:
    """Let whatever loads by transformers in this process take its turn, without knowing of it; a second call does
    nothing. Threads of others load too: engines that a user brings, a notebook around this package."""
    from transformers import PreTrainedModel, modeling_utils

    with _lock:
        if hasattr(modeling_utils.local_torch_dtype, "is_guarded"):
            return
        for name in ("from_pretrained", "_from_config"):
            function = vars(PreTrainedModel)[name].__func__
            setattr(PreTrainedModel, name, classmethod(_taking_turns(function)))
        # The one place where the default dtype is changed, for as long as a model without weights is made.
        guarded: Any = _apart_from_runs(modeling_utils.local_torch_dtype)
        guarded.is_guarded = True
        modeling_utils.local_torch_dtype = guarded


def _taking_turns(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def alone(*args: Any, **kwargs: Any) -> Any:
        with loading():
            return function(*args, **kwargs)

    return alone


def _apart_from_runs(
    change: Callable[..., AbstractContextManager[Any]],
) -> Callable[..., AbstractContextManager[Any]]:
    import torch

    @functools.wraps(change)
    @contextmanager
    def apart(dtype: torch.dtype, *args: Any, **kwargs: Any) -> Iterator[None]:
        with ExitStack() as stack:
            if dtype != torch.get_default_dtype():
                stack.enter_context(_gate.changing())
            stack.enter_context(change(dtype, *args, **kwargs))
            yield

    return apart
