"""Probes several components side by side, without waiting long for any of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from engines.single_flight import SingleFlight
from handlers.errors import InferenceError
from handlers.logger import get_logger
from handlers.signals import is_of_a_signal

log = get_logger(__name__)

Probe = Callable[[], dict[str, Any]]

LONGEST_S = 1.8
"""Longest time of all probes together, in seconds; callers are promised 2."""


class HealthProbes:
    """Runs each probe in a separate thread, and reports those that do not answer as errors; thread-safe.

    A probe that hangs occupies one thread: it is not started again before it has returned, so frequent calls do not
    add up.
    """

    def __init__(self, timeout_s: float = LONGEST_S) -> None:
        self._timeout_s = timeout_s
        self._probes: SingleFlight[str, dict[str, Any]] = SingleFlight("health")

    def probe(self, probes: Mapping[str, Probe]) -> dict[str, dict[str, Any]]:
        """Return each probe's {"status": ok | error, ...}; one that raises or does not return is an error."""
        until = time.monotonic() + self._timeout_s
        asked = {name: self._probes.start(name, probe) for name, probe in probes.items()}
        answers: dict[str, dict[str, Any]] = {}
        for name, future in asked.items():
            try:
                answers[name] = future.result(max(0.0, until - time.monotonic()))
            except TimeoutError:
                answers[name] = {"status": "error", "error": f"no answer within {self._timeout_s:g} s"}
            except InferenceError as error:
                answers[name] = {"status": "error", "error": error.message}
            except BaseException as error:
                if is_of_a_signal(error):
                    raise
                log.warning("probe_failed", component=name, exc_info=True)
                answers[name] = {"status": "error", "error": f"{type(error).__name__}: {error}"}
        return answers
