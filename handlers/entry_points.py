"""What installed packages bring, loaded so that a broken one is told by its name."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import structlog

from handlers.signals import is_of_a_signal

log = structlog.get_logger(__name__)


class BrokenEntryPoint(Exception):
    """Raised for an entry point that does not load; says which it is, whose, why, and what to do."""


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
        cure = "install what is missing" if isinstance(error, ImportError) else "mend or remove that package"
        raise BrokenEntryPoint(
            f"entry point {point.group} {point.name} = {point.value} of {package} does not load: "
            f"{type(error).__name__}: {error}; {cure}"
        ) from error
