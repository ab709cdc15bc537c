"""Engines by name: ours, those of installed packages, and those registered by hand."""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import structlog

from engines.base import BaseEngine, PullProgress
from handlers.errors import EngineUnavailable, InferenceError, UnknownEngine

log = structlog.get_logger(__name__)

ENTRY_POINTS = "inferstream.engines"

BUILT_IN = {
    "transformers": "engines.transformers.engine:TransformersEngine",
    "ollama": "engines.ollama.engine:OllamaEngine",
}
"""Engines of our own, named rather than imported: each brings in libraries that not everybody installs."""

EngineClass = Callable[[Any], BaseEngine]

PullListener = Callable[[str, PullProgress], None]
"""Called with an engine's name and how far a download to its server is."""

_by_plugins: dict[str, EngineClass] = {}


def register_engine(name: str, engine_class: EngineClass) -> None:
    """Make `engine_class(config)` the engine that requests call `name`, in every registry of this process.

    For modules named in worker.plugins; an installed package declares an entry point instead.
    """
    _check_name(name)
    _by_plugins[name] = engine_class


class EngineRegistry:
    """Makes each engine once, when it is first asked for, from its section of the settings. Thread-safe.

    An engine registered by hand goes before one of an installed package, and that before one of ours. Making
    one engine never keeps a caller of another waiting.
    """

    def __init__(self, settings: Any = None, on_pull: PullListener | None = None) -> None:
        """`settings` has a section, as an attribute, for each engine that has settings."""
        self._settings = settings
        self._on_pull = on_pull
        self._lock = threading.Lock()
        self._classes: dict[str, EngineClass] = {}
        self._engines: dict[str, BaseEngine] = {}
        self._making: dict[str, threading.Lock] = {}

    def register(self, name: str, engine_class: EngineClass) -> None:
        """Make `engine_class(config)` the engine that requests call `name`; replaces one of that name."""
        _check_name(name)
        with self._lock:
            self._classes[name] = engine_class
            self._engines.pop(name, None)

    def get(self, name: str) -> BaseEngine:
        """Return the engine called `name`.

        Raises:
            UnknownEngine: permanent; names the engines there are.
            EngineUnavailable: retryable; it cannot be made here, mostly because its libraries are missing.
        """
        with self._lock:
            if name in self._engines:
                return self._engines[name]
            making = self._making.setdefault(name, threading.Lock())
        with making:
            with self._lock:
                if name in self._engines:  # made while this caller waited
                    return self._engines[name]
            engine = self._make(name)
            with self._lock:
                return self._engines.setdefault(name, engine)

    def is_made(self, name: str) -> bool:
        """Return whether `get` returns this engine at once."""
        return name in self._engines

    def names(self) -> list[str]:
        """Return the names of all engines, made or not."""
        with self._lock:
            registered = {*self._classes, *_by_plugins}
        return sorted(registered | set(BUILT_IN) | set(_installed()))

    def made(self) -> dict[str, BaseEngine]:
        """Return the engines that exist by now."""
        with self._lock:
            return dict(self._engines)

    def configured(self) -> list[str]:
        """Return the names of engines whose section of the settings was set: they are meant to be used."""
        sections = {name: getattr(self._settings, name, None) for name in self.names()}
        return [name for name, section in sections.items() if getattr(section, "model_fields_set", ())]

    def unload(self) -> None:
        """Close every engine and let it go; the next `get` makes a new one. Unload the cached models first."""
        with self._lock:
            engines = list(self._engines.items())
            self._engines.clear()
        for name, engine in engines:
            try:
                engine.close()
            except Exception:
                log.exception("engine_not_closed", engine=name)  # the others are to be closed all the same

    def _make(self, name: str) -> BaseEngine:
        try:
            engine = self._find(name)(getattr(self._settings, name, None))
        except InferenceError:
            raise
        except ImportError as error:
            raise EngineUnavailable(
                f"engine {name} cannot be made here: {error}; install what it needs (pip install "
                "'inferstream[all]')"
            ) from error
        except Exception as error:
            log.exception("engine_not_made", engine=name)
            raise EngineUnavailable(
                f"engine {name} cannot be made here: {type(error).__name__}: {error}"
            ) from error
        if not engine.name:
            # The class may serve under several names, so the name goes on the instance.
            object.__setattr__(engine, "name", name)
        if self._on_pull is not None:
            engine.on_progress = functools.partial(self._on_pull, name)
        return engine

    def _find(self, name: str) -> EngineClass:
        with self._lock:
            found = self._classes.get(name) or _by_plugins.get(name)
        if found is not None:
            return found
        installed = _installed()
        if name in installed:
            loaded: EngineClass = installed[name].load()
            return loaded
        if name in BUILT_IN:
            module, _, attribute = BUILT_IN[name].partition(":")
            built_in: EngineClass = getattr(importlib.import_module(module), attribute)
            return built_in
        raise UnknownEngine(f"engine {name!r} is not known; this process has {', '.join(self.names())}")


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _check_name(name: str) -> None:
    if not name or "/" in name:
        raise ValueError(f"{name!r} is no name for an engine; it must not be empty or hold a slash")
