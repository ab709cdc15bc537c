"""The MLflow client: looks up, lists and creates versions, moves their files, and translates errors."""

from __future__ import annotations

import difflib
import math
import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.config.setting_problems import mask_password_in_url
from engines.config.settings import MlflowSettings
from engines.models.resolved_model import ModelReference, RegisteredModel, ResolvedModel, parse_model_name
from handlers.errors import InvalidRequest, RegistryUnavailable, UnknownModel

EXPERIMENT = "inferstream-models"
"""The MLflow experiment of uploaded models."""

_EXISTS = frozenset({"RESOURCE_ALREADY_EXISTS"})
_MISSING = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})
_NAMES_SHOWN = 8
_PAGE = 1000
"""Models or versions per request."""


class MlflowRegistry:
    """A thread-safe client of one MLflow server. Every method blocks, up to the retries of the settings, and raises
    RegistryUnavailable (retryable) where the server does not answer usefully. Making one sets MLflow's timeouts and
    credentials in the environment, the only place where MLflow reads them."""

    def __init__(self, settings: MlflowSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._made: Any = None
        os.environ.update(_environment(settings))

    def look_up(self, reference: ModelReference) -> ResolvedModel:
        """Return the version that `reference` stands for now.

        Raises:
            UnknownModel: permanent; the server has none; the message names what it has instead.
        """
        with self._asked() as client:
            if reference.version is not None:
                found = _or_none(client.get_model_version, reference.name, reference.version)
            elif reference.alias is not None:
                found = _or_none(client.get_model_version_by_alias, reference.name, reference.alias)
            else:
                preferred = _or_none(client.get_model_version_by_alias, reference.name, self.settings.default_alias)
                found = preferred or _newest_version(client, reference.name)
            if found is None:
                raise UnknownModel(_what_there_is(client, reference, self.settings.shown_uri))
            return _resolved(found)

    def newest(self, name: str) -> ResolvedModel | None:
        """Return the newest version of `name`, None where there is no such model or it has no version."""
        with self._asked() as client:
            found = _newest_version(client, name)
            return None if found is None else _resolved(found)

    def all_models(self) -> list[ResolvedModel]:
        """Return, for every registered model, the version its plain name stands for, in order of names."""
        with self._asked() as client:
            return [_resolved(version) for _, version in _preferred(client, self.settings.default_alias)]

    def registered(self) -> list[RegisteredModel]:
        """Return every registered model with all its versions and aliases, in order of names."""
        with self._asked() as client:
            versions = defaultdict[str, list[int]](list)
            for one in _every(client.search_model_versions):
                versions[one.name].append(int(one.version))
            return [
                RegisteredModel(
                    _resolved(version),
                    tuple(map(str, sorted(versions[model.name]))),
                    {alias: str(number) for alias, number in model.aliases.items()},
                )
                for model, version in _preferred(client, self.settings.default_alias)
            ]

    def set_alias(self, model: ResolvedModel, alias: str) -> None:
        """Let `name@alias` stand for this version from now on.

        Raises:
            InvalidRequest: permanent; `alias` is not an alias, or one that MLflow keeps for itself.
        """
        reference = parse_model_name(f"{model.name}@{alias}")
        if alias == "latest" or re.fullmatch(r"[vV]\d+", alias):
            raise InvalidRequest(f"alias {alias!r} is kept by MLflow for itself; take a word such as champion")
        with self._asked() as client:
            client.set_registered_model_alias(reference.name, alias, model.version)

    def check_deletable(self, reference: ModelReference) -> None:
        """Check that `reference` is a version, or a model, which may have no version.

        Raises:
            InvalidRequest: permanent; `reference` is an alias.
            UnknownModel: permanent; the server has no such model or version.
        """
        if reference.alias is not None:
            raise InvalidRequest(
                f"{reference} is an alias; an alias is moved, not deleted: name a version, or the model"
            )
        if reference.version is not None:
            self.look_up(reference)
            return
        with self._asked() as client:
            if _or_none(client.get_registered_model, reference.name) is None:
                raise UnknownModel(_what_there_is(client, reference, self.settings.shown_uri))

    def delete(self, reference: ModelReference) -> None:
        """Delete a version, or a model with all its versions; raises as `check_deletable`."""
        self.check_deletable(reference)
        with self._asked() as client:
            if reference.version is not None:
                client.delete_model_version(reference.name, reference.version)
            else:
                client.delete_registered_model(reference.name)

    def upload(self, name: str, folder: Path) -> tuple[str, str]:
        """Store the files of `folder` on the server; return their address and the id of the stored model.

        Raises:
            InvalidRequest: permanent; a file of the folder cannot be read, or is gone meanwhile.
        """
        with self._asked() as client:
            # Names of stored models allow fewer characters than those of registered ones.
            _or_none(client.create_experiment, EXPERIMENT, codes=_EXISTS)
            experiment_id = str(client.get_experiment_by_name(EXPERIMENT).experiment_id)
            stored = client.create_logged_model(experiment_id, name=name.replace(".", "_"))
            try:
                client.log_model_artifacts(stored.model_id, str(folder))
            except BaseException as error:
                client.finalize_logged_model(stored.model_id, "FAILED")
                if isinstance(error, OSError) and Path(error.filename or "").is_relative_to(folder):
                    raise unreadable(error) from error
                raise
            client.finalize_logged_model(stored.model_id, "READY")
            return str(stored.artifact_location), str(stored.model_id)

    def create_version(
        self, name: str, source: str, tags: Mapping[str, str], *, model_id: str | None = None
    ) -> ResolvedModel:
        """Create the next version of `name`, and the registered model itself where it is new.

        Raises:
            RegistryUnavailable: retryable; nothing is left on the server, unless it went away half-way.
        """
        with self._asked() as client:
            is_new = _or_none(client.create_registered_model, name, codes=_EXISTS) is not None
            try:
                made = client.create_model_version(
                    name, source, tags=dict(tags), model_id=model_id, await_creation_for=0
                )
            except BaseException:
                if is_new:
                    client.delete_registered_model(name)
                raise
            return _resolved(made)

    def download(self, source: str, folder: Path) -> Path:
        """Download the files at `source` into `folder`, and return where in it they are.

        Raises:
            RegistryUnavailable: retryable; the download is incomplete.
        """
        from mlflow.artifacts import download_artifacts

        with self._asked():
            return Path(
                download_artifacts(artifact_uri=source, dst_path=str(folder), tracking_uri=self.settings.tracking_uri)
            )

    def ping(self) -> dict[str, Any]:
        """Return {"status": ok | error, ...} by one short request; never raises."""
        import httpx

        uri = self.settings.tracking_uri
        answer = {"status": "ok", "tracking_uri": self.settings.shown_uri}
        try:
            if uri.startswith(("http://", "https://")):
                httpx.get(f"{uri.rstrip('/')}/health", timeout=1.5).raise_for_status()
            else:
                self.client().search_registered_models(max_results=1)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer to the question
            reason = mask_password_in_url(f"{type(error).__name__}: {error}")
            return {**answer, "status": "error", "error": reason[:300]}
        return answer

    def client(self) -> Any:
        """Return MLflow's client, made by the first call; importing MLflow takes seconds."""
        with self._lock:
            if self._made is None:
                try:
                    from mlflow import MlflowClient
                except ImportError as error:
                    raise RegistryUnavailable(
                        f"asking the model registry needs MLflow's client ({error}); pip install "
                        "'inferstream[registry]'"
                    ) from error
                from mlflow.exceptions import MlflowException

                uri = self.settings.tracking_uri
                try:
                    self._made = MlflowClient(tracking_uri=uri, registry_uri=uri)
                except (MlflowException, ValueError) as error:
                    raise RegistryUnavailable(
                        f"mlflow.tracking_uri={self.settings.shown_uri} is not an address of a model registry; write "
                        "http://HOST:PORT, https://HOST or the address of a database such as sqlite:///mlflow.db"
                    ) from error
            return self._made

    @contextmanager
    def _asked(self) -> Iterator[Any]:
        """Yield the client, and translate its errors; answers like "not found" are handled before."""
        client = self.client()
        from mlflow.exceptions import MlflowException

        try:
            yield client
        except (MlflowException, OSError) as error:
            if getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE":
                raise InvalidRequest(f"the model registry refuses this: {_short(error)}") from error
            raise RegistryUnavailable(
                f"the model registry at {self.settings.shown_uri} did not serve this: {_short(error)}; check that "
                "MLflow runs there (`inferstream up` starts one) and that mlflow.tracking_uri, mlflow.username and "
                "mlflow.password are right, then try again"
            ) from error


_UNREACHED = {
    "Connection refused": "nothing listens there",
    "Failed to resolve": "there is no such host",
    "Read timed out": "it took too long to answer",
    "Max retries exceeded": "it cannot be reached",
}


def _environment(settings: MlflowSettings) -> dict[str, str]:
    """Return the environment variables for what MLflow's client has no arguments for; its defaults wait for minutes."""
    environment = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(math.ceil(settings.timeout_s)),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(settings.max_retries),
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    if settings.username is not None:
        environment["MLFLOW_TRACKING_USERNAME"] = settings.username
    if settings.password is not None:
        environment["MLFLOW_TRACKING_PASSWORD"] = settings.password.get_secret_value()
    return environment


def unreadable(error: OSError) -> InvalidRequest:
    """Return the error for a file to register that cannot be read."""
    return InvalidRequest(
        f"{error.filename} cannot be read ({error.strerror}); register the folder when nothing writes to it any more"
    )


def _short(error: BaseException) -> str:
    """Return an error in few words; those of MLflow's client have several lines where no server answers."""
    for sign, words in _UNREACHED.items():
        if sign in str(error):
            return words
    text = mask_password_in_url(" ".join(str(error).split()))
    return text if len(text) <= 200 else text[:200] + "…"


def _resolved(version: Any) -> ResolvedModel:
    """Convert MLflow's `version`; its number is a text from a server and a number from a database."""
    return ResolvedModel(str(version.name), str(version.version), str(version.source), dict(version.tags))


def _newest_version(client: Any, name: str) -> Any:
    found = client.search_model_versions(f"name='{name}'", order_by=["version_number DESC"], max_results=1)
    return found[0] if found else None


def _what_there_is(client: Any, reference: ModelReference, server: str) -> str:
    """Return a message for a reference to nothing: what is missing, and the nearest name."""
    registered = _or_none(client.get_registered_model, reference.name)
    if registered is None:
        names = [one.name for one in client.search_registered_models(max_results=_PAGE)]
        near = difflib.get_close_matches(reference.name, names, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else _some_of(names)
        return f"model_name {str(reference)!r}: no such model is registered at {server}; {hint}"
    if reference.alias is not None:
        aliases = ", ".join(sorted(registered.aliases)) or "none"
        return f"model {reference.name} has no alias {reference.alias!r}; its aliases: {aliases}"
    newest = _newest_version(client, reference.name)
    if newest is None:
        return f"model {reference.name} is registered, but has no version; register one, or delete the model"
    return f"model {reference.name} has no version {reference.version}; the newest is {newest.version}"


def _or_none(call: Any, *arguments: str, codes: frozenset[str] = _MISSING) -> Any:
    """Return what `call` returns, or None where the server answers with one of `codes`: that there is no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return call(*arguments)
    except MlflowException as error:
        if error.error_code in codes:
            return None
        raise


def _preferred(client: Any, default_alias: str) -> list[tuple[Any, Any]]:
    """Return, in MLflow's form, every registered model with the version its plain name stands for."""
    found = []
    for model in _every(client.search_registered_models):
        aliased = model.aliases.get(default_alias)
        version = max(model.latest_versions, key=lambda one: int(one.version), default=None)
        if aliased is not None and (version is None or str(version.version) != str(aliased)):
            version = _or_none(client.get_model_version, model.name, str(aliased)) or version
        if version is not None:
            found.append((model, version))
    return sorted(found, key=lambda pair: str(pair[0].name))


def _every(search: Any) -> Iterator[Any]:
    """Yield the items of all pages of an MLflow search."""
    page = None
    while True:
        answer = search(max_results=_PAGE, page_token=page)
        yield from answer
        page = answer.token
        if not page:
            return


def _some_of(names: list[str]) -> str:
    if not names:
        return "nor is any other; register it with `inferstream models register`"
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"there are {', '.join(names[:_NAMES_SHOWN])}{more}"
