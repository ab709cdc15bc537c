"""Resolves model names to registered versions, and downloads their files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engines.config.settings import CacheSettings, MlflowSettings
from engines.models.hub import WantedFiles
from engines.models.last_good import LastGoodResolutions
from engines.models.mlflow_registry import MlflowRegistry
from engines.models.model_files import ModelFiles
from engines.models.registration import register
from engines.models.resolved_model import ModelReference, ResolvedModel, parse_model_name
from engines.single_flight import SingleFlight
from handlers.errors import InferenceError, InvalidRequest, RegistryUnavailable, UnknownModel, as_inference_error
from handlers.logger import get_logger

log = get_logger(__name__)

PATIENCE_S = 1.0
"""Longest wait for a new answer about a name whose last answer is known, in seconds."""


_MOST_KNOWN = 1024
"""From how many known names on those are forgotten that no request named lately."""

_STILL_FRESH_S = 0.1
"""How much longer an answer must be valid for `is_fresh` to return true."""


@dataclass(frozen=True, slots=True)
class _Known:
    model: ResolvedModel
    fresh_until: float


class ModelManager:
    """The models of one MLflow server, `registry`, and their files on this machine, `files`.

    Thread-safe; methods block, so an event loop calls them from worker threads, and raise RegistryUnavailable
    (retryable) where the server is away and they have no earlier answer. An answer is used for
    `alias_poll_s` before the server is asked again; one question per name is under way however many callers
    wait, and never delays those of another name. While the server is away, the last good answer goes on.
    """

    def __init__(
        self,
        mlflow: MlflowSettings,
        cache: CacheSettings,
        *,
        wanted: WantedFiles | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wanted` says which files of models on the hub are fetched; None: those that are safe to load."""
        self.alias_poll_s = mlflow.alias_poll_s
        """How long an answer about a name is valid before the server is asked again, in seconds."""
        self._settings = mlflow
        self.registry = MlflowRegistry(mlflow)
        self.files = ModelFiles(cache, mlflow.physical_roots, self.registry.download, wanted)
        self._last_good = LastGoodResolutions(cache.directory / ".resolutions", mlflow.tracking_uri)
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[ModelReference, _Known] = {}
        self._lookups: SingleFlight[ModelReference, ResolvedModel] = SingleFlight("resolve")
        self._is_away = False

    def connect(self) -> None:
        """Make the client, which takes seconds the first time; sends nothing to the server.

        Raises:
            RegistryUnavailable: retryable; MLflow's client is not installed.
        """
        self.registry.client()

    def is_fresh(self, model_name: str) -> bool:
        """Return whether `resolve` returns at once, from a valid answer."""
        try:
            known = self._known.get(parse_model_name(model_name))
        except InvalidRequest:
            return True
        return known is not None and self._clock() + _STILL_FRESH_S < known.fresh_until

    def known(self, model_name: str) -> ResolvedModel | None:
        """Return the last resolution of `model_name`; None where there is none, or it is not a name."""
        try:
            return self._known[parse_model_name(model_name)].model
        except (InvalidRequest, KeyError):
            return None

    def resolve(self, model_name: str) -> ResolvedModel:
        """Return the version that `name`, `name@alias` or `name/version` stands for.

        A plain name is the version under the default alias where there is one, else the newest. Waits for at most
        `timeout_s`, and only a moment where an earlier answer can be used instead.

        Raises:
            InvalidRequest: permanent; `model_name` has none of the three forms.
            UnknownModel: permanent; the server knows no such model, version or alias.
            RegistryUnavailable: retryable; the server is away, and never answered for this name.
        """
        return self._resolve(model_name, still_s=0.0)

    def renew(self, model_name: str) -> ResolvedModel:
        """As `resolve`, but asks again in the second half of an answer's time, so that requests need not wait for the
        server."""
        return self._resolve(model_name, still_s=self.alias_poll_s / 2)

    def _resolve(self, model_name: str, still_s: float) -> ResolvedModel:
        """Return an answer that is valid for `still_s` more, else ask the server."""
        reference = parse_model_name(model_name)
        with self._lock:
            known = self._known.get(reference)
        if known is not None and self._clock() + still_s < known.fresh_until:
            return known.model
        last = known.model if known is not None else self._last_good.load(reference)
        self.connect()  # the time of this must not count as waiting for the server
        # In a separate thread: an answer that takes minutes blocks no worker thread and no other name.
        lookup = self._lookups.start(reference, partial(self._ask, reference, still_s))
        try:
            return lookup.result(self._settings.timeout_s if last is None else PATIENCE_S)
        except TimeoutError:
            if last is None:
                raise RegistryUnavailable(
                    f"the model registry did not say within {self._settings.timeout_s:g} s what {model_name} "
                    f"is; check that MLflow runs at mlflow.tracking_uri ({self._settings.shown_uri}), "
                    "then try again"
                ) from None
            return self._go_on_with(reference, last, known)
        except RegistryUnavailable as error:
            if last is None:
                raise RegistryUnavailable(f"model_name {model_name} is not known here, and {error.message}") from error
            return self._go_on_with(reference, last, known)

    def register_model_to_mlflow(
        self,
        *,
        model_name: str,
        model_source: str,
        model_path: str | Path | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> ResolvedModel:
        """Register a model, and return its new version; see `engines.models.registration.register`."""
        return register(
            self.registry, model_name=model_name, model_source=model_source, model_path=model_path, tags=tags
        )

    def list_models(self) -> list[ResolvedModel]:
        """Return, for every registered model, the version its plain name stands for."""
        return self.registry.all_models()

    def delete_model(self, model_name: str) -> None:
        """Delete `name/version`, or `name` with all its versions; workers follow within `alias_poll_s`.

        Files that were uploaded for it stay on the server until its own garbage collection removes them.

        Raises:
            InvalidRequest: permanent; neither of the two forms.
            UnknownModel: permanent.
        """
        reference = parse_model_name(model_name)
        self.registry.delete(reference)
        with self._lock:
            for known in [known for known in self._known if known.name == reference.name]:
                del self._known[known]

    def set_alias(self, model: ResolvedModel, alias: str) -> None:
        """Let `name@alias` stand for this version; workers follow within `alias_poll_s`.

        Raises:
            InvalidRequest: permanent; `alias` is not an alias, or one that MLflow keeps for itself.
        """
        self.registry.set_alias(model, alias)

    def health(self) -> dict[str, Any]:
        """Return {"status": ok | error, "tracking_uri", "error"?} by asking the server; never raises."""
        return self.registry.ping()

    def _ask(self, reference: ModelReference, still_s: float) -> ResolvedModel:
        known = self._known.get(reference)
        if known is not None and self._clock() + still_s < known.fresh_until:
            return known.model  # answered since the caller looked
        try:
            answer = self.registry.look_up(reference)
            self._learn(reference, answer)
        except BaseException as raised:
            if not isinstance(raised, InferenceError):
                log.exception("look_up_failed", model=str(reference))
            error = as_inference_error(raised)
            if isinstance(error, UnknownModel):
                with self._lock:
                    self._known.pop(reference, None)
                self._last_good.forget(reference)
            self._note_away(isinstance(error, RegistryUnavailable), error)
            raise error from None
        self._note_away(False, None)
        return answer

    def _learn(self, reference: ModelReference, model: ResolvedModel) -> None:
        with self._lock:
            before = self._known.get(reference)
            self._known[reference] = _Known(model, self._clock() + self.alias_poll_s)
            if len(self._known) > _MOST_KNOWN:  # the others are still on disk
                self._known = {one: it for one, it in self._known.items() if it.fresh_until > self._clock()}
        if before is None or before.model != model:
            if before is not None:
                log.info("model_moved", model=str(reference), before=before.model.key, now=model.key)
            self._last_good.save(reference, model)

    def _go_on_with(self, reference: ModelReference, last: ResolvedModel, known: _Known | None) -> ResolvedModel:
        """Use `last` until the next poll, so that callers do not wait one after the other; but what replaced `known`,
        which the caller found before it asked, is newer than `last`."""
        with self._lock:
            now = self._known.get(reference)
            if now is known:
                self._known[reference] = _Known(last, self._clock() + self.alias_poll_s)
                return last
        return last if now is None else now.model

    def _note_away(self, is_away: bool, error: InferenceError | None) -> None:
        """Log once that the server is away, and once that it is back."""
        with self._lock:
            changed, self._is_away = self._is_away != is_away, is_away
        if changed and is_away:
            log.warning("registry_away", reason=str(error), meanwhile="known names keep their last version")
        elif changed:
            log.info("registry_back", tracking_uri=self._settings.shown_uri)
