"""Which handler serves which task: built in, installed as an entry point, or registered by hand."""

from __future__ import annotations

import difflib
import inspect
import re
import threading
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeGuard

from handlers.base import BaseModelHandler
from handlers.errors import InferenceError, UnknownTask, as_inference_error
from handlers.logger import get_logger
from handlers.settings import MediaSettings
from handlers.signals import is_of_a_signal

log = get_logger(__name__)


class BrokenEntryPoint(Exception):
    """Raised for an entry point that does not load; names it, its package, the reason and what to do."""


def load_entry_point(point: EntryPoint) -> Any:
    """Return the object that `point` names.

    Raises:
        BrokenEntryPoint: permanent; importing it raised, whatever that was.
    """
    try:
        return point.load()
    except BaseException as error:
        if is_of_a_signal(error):
            raise
        package = f"package {point.dist.name} {point.dist.version}" if point.dist else "an installed package"
        log.exception("entry_point_broken", group=point.group, name=point.name, value=point.value)
        cure = "install what is missing" if isinstance(error, ImportError) else "fix or remove that package"
        raise BrokenEntryPoint(
            f"entry point {point.group} {point.name} = {point.value} of {package} does not load: "
            f"{type(error).__name__}: {error}; {cure}"
        ) from error


ENTRY_POINT_GROUP = "inferstream.handlers"

BUILT_IN_HANDLERS = {
    "text-generation": "handlers.text_generation:TextGenerationHandler",
    "asr": "handlers.recording:AsrHandler",
    "audio-classification": "handlers.recording:AudioClassificationHandler",
    "video-analysis": "handlers.video_analysis:VideoAnalysisHandler",
    "vlm": "handlers.vlm:VlmHandler",
    "ocr": "handlers.ocr:OcrHandler",
    "document-analysis": "handlers.document_analysis:DocumentAnalysisHandler",
}

# A task's name becomes part of topic names, where Kafka allows only these characters.
_TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class HandlerRegistry:
    """Finds the handler of each task and makes it when first used; safe to use from any thread.

    A handler registered by hand wins over an installed entry point, and that over a built-in one.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._limits: MediaSettings | None = None
        self._registered: dict[str, type[BaseModelHandler]] = {}
        self._handlers: dict[str, BaseModelHandler] = {}
        self._making: dict[str, threading.RLock] = {}
        """By task, so that a handler that hangs while it is made blocks no other task."""

    def configure(self, media: MediaSettings) -> None:
        """Pass `media` as `limits` to every handler whose `__init__` takes it; handlers are made again."""
        with self._lock:
            self._limits = media
            self._handlers.clear()

    def register_handler_manually(self, task: str, name: str, handler_class: type[BaseModelHandler]) -> None:
        """Register `handler_class` for `task`; `name` is its name in logs.

        Raises:
            ValueError: the task's name cannot be part of a topic's name.
            TypeError: `handler_class` is not a subclass of BaseModelHandler.
        """
        if not _TASK_NAME.fullmatch(task):
            raise ValueError(f"task {task!r} must be 1 to 100 letters, digits, '.', '_' or '-'")
        if not _is_handler_class(handler_class):
            raise TypeError(f"{handler_class!r} must be a subclass of handlers.BaseModelHandler")
        with self._lock:
            self._registered[task] = handler_class
            self._handlers.pop(task, None)
        log.info("handler_registered", task=task, handler=name)

    def get(self, task: str) -> BaseModelHandler:
        """Return the handler of `task`.

        Raises:
            UnknownTask: permanent; no handler of that name, or one whose libraries are not installed.
            InternalError: permanent; its class cannot be made.
        """
        made = self._handlers.get(task)
        if made is not None:
            return made
        with self._lock:
            making = self._making.setdefault(task, threading.RLock())
        with making:
            if (made := self._handlers.get(task)) is not None:  # made while this caller waited
                return made
            try:
                handler = self._make(task)
            except InferenceError:
                raise
            except BaseException as error:
                failure = as_inference_error(error)
                log.error("handler_not_made", task=task, exc_info=error)
                raise failure from error
            with self._lock:
                return self._handlers.setdefault(task, handler)

    def tasks(self) -> list[str]:
        """Return the names of all tasks, in order."""
        with self._lock:
            return sorted({*BUILT_IN_HANDLERS, *self._installed, *self._registered})

    def _make(self, task: str) -> BaseModelHandler:
        handler_class = self._find(task)
        takes_limits = "limits" in inspect.signature(handler_class).parameters
        handler = handler_class(**({"limits": self._limits} if takes_limits else {}))
        if not handler.task:
            # The class may serve several tasks, so the name is set on the instance.
            object.__setattr__(handler, "task", task)
        return handler

    def _find(self, task: str) -> type[BaseModelHandler]:
        if task in self._registered:
            return self._registered[task]
        try:
            if task in self._installed:
                return self._checked(task, load_entry_point(self._installed[task]))
            if task in BUILT_IN_HANDLERS:
                module, _, name = BUILT_IN_HANDLERS[task].partition(":")
                return self._checked(task, getattr(import_module(module), name))
        except BrokenEntryPoint as error:
            raise UnknownTask(f"task {task} cannot be served here: {error}") from error
        except ImportError as error:
            raise UnknownTask(
                f"task {task} cannot be served here: {error}; install what is missing"
            ) from error
        near = difflib.get_close_matches(task, self.tasks(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UnknownTask(f"task {task!r} is unknown; {hint}known tasks: {', '.join(self.tasks())}")

    @staticmethod
    def _checked(task: str, found: object) -> type[BaseModelHandler]:
        if _is_handler_class(found):
            return found
        raise UnknownTask(f"task {task} is served by {found!r}, which is not a subclass of BaseModelHandler")

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _is_handler_class(found: object) -> TypeGuard[type[BaseModelHandler]]:
    return inspect.isclass(found) and issubclass(found, BaseModelHandler)


model_registry = HandlerRegistry()
"""The registry of this process."""
