"""What engines of one's own are set to: the section `engines`, checked by what each engine declares."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ValidationError

from engines.setting_problems import ConfigurationError, explain, may_be_secret, nearest, shown
from engines.settings import Given
from engines.settings_tree import Leaf


def settings_for(
    engine: str, settings_class: type[BaseModel] | None, given: Mapping[str, Given]
) -> BaseModel | None:
    """Return the `settings_class` that `given` makes of its defaults; None where an engine declares none.

    Raises:
        ConfigurationError: permanent; names every setting the engine does not have, every bad value and what
            is allowed, and every setting without a default that is missing.
    """
    under = f"engines.{engine}"
    fields = settings_class.model_fields if settings_class is not None else {}
    known = {f"{under}.{name}": Leaf(f"{under}.{name}", field) for name, field in fields.items()}
    mine = {f"{under}.{name}": one for name, one in given.items()}
    problems = [_unknown(key, one, engine, known) for key, one in mine.items() if key not in known]
    mine = {key: one for key, one in mine.items() if key in known}
    settings = None
    if settings_class is not None:
        values = {key.rpartition(".")[2]: known[key].decode(one.value) for key, one in mine.items()}
        try:
            settings = settings_class.model_validate(values)
        except ValidationError as error:
            problems += explain(error, mine, known, under=under)
    if problems:
        raise ConfigurationError(problems)
    return settings


def _unknown(key: str, one: Given, engine: str, known: Mapping[str, Leaf]) -> str:
    near = nearest(key, known)
    if near is not None:
        hint = f"did you mean {near.env_name if one.origin.startswith('env ') else near.key}?"
    elif known:
        hint = f"engine {engine} has: {', '.join(name.rpartition('.')[2] for name in known)}"
    else:
        hint = f"engine {engine} declares no settings_class; leave it out"
    secret = may_be_secret(key) or (near is not None and near.secret)
    return f"{key}={shown(one.value, secret)} ({one.origin}): no such setting; {hint}"
