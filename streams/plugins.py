"""Imports worker.plugins and checks worker.tasks."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable

from engines.configuration import ConfigurationError
from handlers import model_registry
from handlers.logger import get_logger
from handlers.signals import is_of_a_signal
from streams.settings import WorkerSettings

log = get_logger(__name__)


def import_plugins(names: Iterable[str]) -> None:
    """Import these modules, which register handlers and engines; one that is imported already stays as it is.

    Raises:
        ConfigurationError: permanent; names each module that cannot be imported, and why.
    """
    problems = []
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException as error:
            if is_of_a_signal(error):
                raise
            log.debug("plugin_not_imported", plugin=name, exc_info=True)
            problems.append(
                f"worker.plugins: {name} cannot be imported: {type(error).__name__}: {error}; install it, put "
                "its folder on PYTHONPATH, or correct worker.plugins"
            )
    if problems:
        raise ConfigurationError(problems)


def tasks_of(worker: WorkerSettings) -> list[str]:
    """Return the tasks that a worker with these settings consumes, its plugins' among them.

    Raises:
        ConfigurationError: permanent; a plugin cannot be imported, or a task is not known, with the nearest.
    """
    import_plugins(worker.plugins)
    known = model_registry.tasks()
    problems = []
    for task in worker.tasks:
        if task not in known:
            near = difflib.get_close_matches(task, known, 1)
            hint = f"did you mean {near[0]}?" if near else "install its package, or name its module in worker.plugins"
            problems.append(f"worker.tasks: {task!r} is not a task here; {hint} (known: {', '.join(known)})")
    if problems:
        raise ConfigurationError(problems)
    return list(dict.fromkeys(worker.tasks)) or known
