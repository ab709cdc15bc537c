"""Lists the models of an MLflow server with versions and aliases, and suggests names for wrong ones."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from engines.models.resolved_model import ModelReference, RegisteredModel, ResolvedModel

_MISSING = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})
_NAMES_SHOWN = 8
_PAGE = 1000
"""Models or versions per request."""


def resolved(version: Any) -> ResolvedModel:
    """Convert MLflow's `version`; its number is a text from a server and a number from a database."""
    return ResolvedModel(str(version.name), str(version.version), str(version.source), dict(version.tags))


def newest_version(client: Any, name: str) -> Any:
    """Return MLflow's newest version of `name`, None where there is no such model or it has no version."""
    found = client.search_model_versions(f"name='{name}'", order_by=["version_number DESC"], max_results=1)
    return found[0] if found else None


def registered_models(client: Any, default_alias: str) -> list[RegisteredModel]:
    """Return every registered model with all its versions and aliases, in order of names."""
    versions = defaultdict[str, list[int]](list)
    for one in _every(client.search_model_versions):
        versions[one.name].append(int(one.version))
    return [
        RegisteredModel(
            resolved(version),
            tuple(map(str, sorted(versions[model.name]))),
            {alias: str(number) for alias, number in model.aliases.items()},
        )
        for model, version in preferred(client, default_alias)
    ]


def what_there_is(client: Any, reference: ModelReference, server: str) -> str:
    """Return a message for a reference to nothing: what is missing, and the nearest name."""
    registered = or_none(client.get_registered_model, reference.name)
    if registered is None:
        names = [one.name for one in client.search_registered_models(max_results=_PAGE)]
        near = difflib.get_close_matches(reference.name, names, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else _some_of(names)
        return f"model_name {str(reference)!r}: no such model is registered at {server}; {hint}"
    if reference.alias is not None:
        aliases = ", ".join(sorted(registered.aliases)) or "none"
        return f"model {reference.name} has no alias {reference.alias!r}; its aliases: {aliases}"
    newest = newest_version(client, reference.name)
    if newest is None:
        return f"model {reference.name} is registered, but has no version; register one, or delete the model"
    return f"model {reference.name} has no version {reference.version}; the newest is {newest.version}"


def or_none(call: Any, *arguments: str, codes: frozenset[str] = _MISSING) -> Any:
    """Return what `call` returns, or None where the server answers with one of `codes`: that there is no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return call(*arguments)
    except MlflowException as error:
        if error.error_code in codes:
            return None
        raise


def preferred(client: Any, default_alias: str) -> list[tuple[Any, Any]]:
    """Return, in MLflow's form, every registered model with the version its plain name stands for."""
    found = []
    for model in _every(client.search_registered_models):
        aliased = model.aliases.get(default_alias)
        version = max(model.latest_versions, key=lambda one: int(one.version), default=None)
        if aliased is not None and (version is None or str(version.version) != str(aliased)):
            version = or_none(client.get_model_version, model.name, str(aliased)) or version
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
