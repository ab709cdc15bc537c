"""Registries by name: built in, installed as an entry point or registered by hand; and that of the handlers."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeGuard, TypeVar

from handlers.base import BaseModelHandler
from handlers.errors import InferenceError, UnknownTask, as_inference_error
from handlers.logger import get_logger
from handlers.settings import MediaSettings
from handlers.signals import is_of_a_signal

log = get_logger(__name__)

T = TypeVar("T")


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


class Registry(ABC, Generic[T]):
    """Makes one object for each name when it is first asked for; safe to use from any thread.

    A class registered by hand wins over an installed entry point, and that over a built-in one. An object that hangs
    while it is made blocks no other name.
    """

    def __init__(self, group: str, built_in: Mapping[str, str]) -> None:
        """`group` is that of the entry points; `built_in` are import paths, as their libraries may be missing."""
        self._group = group
        self._built_in = built_in
        self._lock = threading.RLock()
        self._registered: MutableMapping[str, Callable[..., T]] = {}
        self._made: dict[str, T] = {}
        self._making: dict[str, threading.RLock] = {}

    def get(self, name: str) -> T:
        """Return the object of that name.

        Raises:
            InferenceError: the name is not known (permanent), or its object cannot be made.
        """
        made = self._made.get(name)  # without a lock, as nearly every request finds it made
        if made is not None:
            return made
        kept = name if self.knows(name) else ""  # callers choose names: the unknown ones share a lock
        with self._lock:
            making = self._making.setdefault(kept, threading.RLock())
        with making:
            if (made := self._made.get(name)) is not None:  # made while this caller waited
                return made
            made = self._make(name)
            with self._lock:
                if self._making.get(kept) is making:
                    return self._made.setdefault(name, made)
        return self.get(name)  # another was registered meanwhile

    def names(self) -> list[str]:
        """Return all names, made or not, in order."""
        with self._lock:
            return sorted({*self._built_in, *self._installed, *self._registered})

    def knows(self, name: str) -> bool:
        """Return whether there is something of that name; as fast as a dict lookup."""
        return any(name in names for names in (self._built_in, self._registered, self._installed))

    def _register(self, name: str, made_by: Callable[..., T]) -> None:
        with self._lock:
            self._registered[name] = made_by
            self._made.pop(name, None)
            self._making.pop(name, None)

    def _class_of(self, name: str) -> Callable[..., T]:
        """Return what makes the object of a name.

        Raises:
            InferenceError: permanent; the name is not known.
            BrokenEntryPoint: permanent; as `load_entry_point`.
            ImportError: permanent; its libraries are not installed.
        """
        found: Callable[..., T] | None = self._registered.get(name)
        if found is not None:
            return found
        if name in self._installed:
            found = load_entry_point(self._installed[name])
        elif name in self._built_in:
            found = pkgutil.resolve_name(self._built_in[name])
        else:
            raise self._unknown(name)
        return found

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        """Entry points of installed packages; looked up once, as it takes milliseconds."""
        return {point.name: point for point in entry_points(group=self._group)}

    @abstractmethod
    def _make(self, name: str) -> T: ...

    @abstractmethod
    def _unknown(self, name: str) -> InferenceError: ...


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


class HandlerRegistry(Registry[BaseModelHandler]):
    """The handler of each task."""

    def __init__(self) -> None:
        super().__init__(ENTRY_POINT_GROUP, BUILT_IN_HANDLERS)
        self._limits: MediaSettings | None = None

    def configure(self, media: MediaSettings) -> None:
        """Pass `media` as `limits` to every handler whose `__init__` takes it; handlers are made again."""
        with self._lock:
            self._limits = media
            self._made.clear()
            self._making.clear()

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
        self._register(task, handler_class)
        log.info("handler_registered", task=task, handler=name)

    def tasks(self) -> list[str]:
        """Return the names of all tasks, in order."""
        return self.names()

    def _make(self, task: str) -> BaseModelHandler:
        try:
            handler_class = self._find(task)
            takes_limits = "limits" in inspect.signature(handler_class).parameters
            handler = handler_class(**({"limits": self._limits} if takes_limits else {}))
            if not handler.task:
                # The class may serve several tasks, so the name is set on the instance.
                object.__setattr__(handler, "task", task)
        except InferenceError:
            raise
        except BaseException as error:
            failure = as_inference_error(error)
            log.error("handler_not_made", task=task, exc_info=error)
            raise failure from error
        return handler

    def _find(self, task: str) -> type[BaseModelHandler]:
        try:
            found = self._class_of(task)
        except (BrokenEntryPoint, ImportError) as error:
            cure = "" if isinstance(error, BrokenEntryPoint) else "; install what is missing"
            raise UnknownTask(f"task {task} cannot be served here: {error}{cure}") from error
        if _is_handler_class(found):
            return found
        raise UnknownTask(f"task {task} is served by {found!r}, which is not a subclass of BaseModelHandler")

    def _unknown(self, task: str) -> UnknownTask:
        near = difflib.get_close_matches(task, self.tasks(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return UnknownTask(f"task {task!r} is unknown; {hint}known tasks: {', '.join(self.tasks())}")


def _is_handler_class(found: object) -> TypeGuard[type[BaseModelHandler]]:
    return inspect.isclass(found) and issubclass(found, BaseModelHandler)


model_registry = HandlerRegistry()
"""The registry of this process."""
