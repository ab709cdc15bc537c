"""Engines by name: built in, from installed packages, and registered by hand."""

from __future__ import annotations

import difflib
import functools
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from engines.base import BaseEngine, PullProgress
from engines.config.setting_problems import ConfigurationError, settings_for
from engines.config.settings import EngineSettings
from engines.log_context import failures_logged
from handlers.errors import EngineUnavailable, InferenceError, UnknownEngine, is_out_of_memory, out_of_memory
from handlers.logger import get_logger
from handlers.registry import BrokenEntryPoint, Registry
from handlers.signals import is_of_a_signal

log = get_logger(__name__)

ENTRY_POINTS = "inferstream.engines"

BUILT_IN = {
    "transformers": "engines.transformers.engine:TransformersEngine",
    "ollama": "engines.ollama.engine:OllamaEngine",
}
"""Built-in engines, as import paths: each needs libraries that may not be installed."""

EngineClass = Callable[[Any], BaseEngine]

PullListener = Callable[[str, PullProgress], None]
"""Called with an engine's name and the progress of a download to its server."""

_by_plugins: dict[str, Callable[..., BaseEngine]] = {}


def register_engine(name: str, engine_class: EngineClass) -> None:
    """Register `engine_class` under `name` in every registry of this process, from a module named in worker.plugins; an
    installed package declares an entry point instead."""
    _check(name, engine_class)
    _by_plugins[name] = engine_class


class EngineRegistry(Registry[BaseEngine]):
    """Makes each engine when it is first used, with its section of the settings."""

    def __init__(self, settings: EngineSettings | None = None, on_pull: PullListener | None = None) -> None:
        super().__init__(ENTRY_POINTS, BUILT_IN)
        self._settings = EngineSettings() if settings is None else settings
        self._on_pull = on_pull
        self._registered = ChainMap(self._registered, _by_plugins)

    def register(self, name: str, engine_class: EngineClass) -> None:
        """Register `engine_class` under `name`; replaces one of that name."""
        _check(name, engine_class)
        self._register(name, engine_class)

    def is_made(self, name: str) -> bool:
        """Return whether `get` returns this engine at once."""
        return name in self._made

    def made(self) -> dict[str, BaseEngine]:
        """Return the engines that were made so far."""
        return dict(self._made)

    def supported_tasks(self, name: str) -> frozenset[str]:
        """Return the tasks that an engine runs, none for any; makes it only where its class does not say.

        Raises:
            UnknownEngine, EngineUnavailable: as `get`.
        """
        with _unavailable(name):
            declared = None if self.is_made(name) else getattr(self._class_of(name), "supported_tasks", None)
        if isinstance(declared, Collection) and declared:
            return frozenset(declared)
        return frozenset(self.get(name).supported_tasks)

    def configured(self) -> list[str]:
        """Return the names of engines with settings: they are meant to be used."""
        own = self._settings.engines.names()
        ours = [name for name in BUILT_IN if getattr(self._settings, name).model_fields_set]
        return [name for name in self.names() if name in own or name in ours]

    def check_settings(self) -> None:
        """Check the settings of custom engines; those of built-in ones were checked when they were read.

        Raises:
            ConfigurationError: permanent; names every engine that is not known, every bad value and what is
                allowed.
        """
        problems: list[str] = []
        for name in self._settings.engines.names():
            if name in BUILT_IN:
                problems.append(f"engines.{name}: engine {name} has a separate section; write {name}")
            elif name not in self.names():
                near = difflib.get_close_matches(name, self.names(), 1)
                hint = f"did you mean {near[0]}?" if near else "name its module in worker.plugins"
                problems.append(f"engines.{name}: no such engine; {hint} (known: {', '.join(self.names())})")
            else:
                try:
                    self._config(name, self._class_of(name))
                except ConfigurationError as error:
                    problems += error.problems
                except (BrokenEntryPoint, ImportError) as error:
                    # Its requests fail with this error, and health reports it; other engines go on.
                    log.warning("engine_not_loaded", engine=name, error=str(error))
        if problems:
            raise ConfigurationError(problems)

    def unload(self) -> None:
        """Close every engine and drop it; the next `get` makes a new one. Unload the cached models first."""
        with self._lock:
            engines = list(self._made.items())
            self._made.clear()
        for name, engine in engines:
            with failures_logged(log, "engine_not_closed", engine=name):  # the others must be closed too
                engine.close()

    def _config(self, name: str, engine_class: EngineClass) -> Any:
        """Return the argument of the engine's `__init__`."""
        if name in BUILT_IN:
            return getattr(self._settings, name)
        declared = getattr(engine_class, "settings_class", None)
        return settings_for(name, declared, self._settings.engines.of(name))

    def _make(self, name: str) -> BaseEngine:
        with _unavailable(name):
            engine_class = self._class_of(name)
            engine = engine_class(self._config(name, engine_class))
            if not engine.name:
                # The class may serve under several names, so the name goes on the instance.
                object.__setattr__(engine, "name", name)
            if self._on_pull is not None:
                engine.on_progress = functools.partial(self._on_pull, name)
        return engine

    def _unknown(self, name: str) -> UnknownEngine:
        return UnknownEngine(f"engine {name!r} is not known; this process has {', '.join(self.names())}")


@contextmanager
def _unavailable(name: str) -> Iterator[None]:
    """Turn any error of making an engine into EngineUnavailable or OutOfMemory."""
    try:
        yield
    except InferenceError:
        raise
    except (ConfigurationError, BrokenEntryPoint, ImportError) as error:
        problem = "; ".join(error.problems) if isinstance(error, ConfigurationError) else str(error)
        if isinstance(error, ImportError):
            problem += "; install what it needs (pip install 'inferstream[all]')"
        raise EngineUnavailable(f"engine {name} cannot be made here: {problem}") from error
    except BaseException as error:
        if is_of_a_signal(error):
            raise
        log.exception("engine_not_made", engine=name)
        if is_out_of_memory(error):
            raise out_of_memory(f"as engine {name} was made") from error
        raise EngineUnavailable(f"engine {name} cannot be made here: {type(error).__name__}: {error}") from error


def _check(name: str, engine_class: Any) -> None:
    if not name or "/" in name:
        raise ValueError(f"{name!r} is not a name for an engine; it must not be empty or hold a slash")
    is_other_class = isinstance(engine_class, type) and not issubclass(engine_class, BaseEngine)
    if is_other_class or not callable(engine_class):
        raise TypeError(f"{engine_class!r} must be a subclass of engines.BaseEngine")
