"""Messages about invalid settings: the key, the value, its origin, and what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from engines.config.settings import Given
from engines.config.settings_tree import Leaf, is_open

MASK = "********"
_URL_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@/\s]+@")
_SECRET_NAME = re.compile(r"pass|pwd|secret|token|key", re.IGNORECASE)


class ConfigurationError(Exception):
    """Raised when settings are invalid; `problems` holds one sentence for each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def unknown(key: str, one: Given, sections: Mapping[str, type[BaseModel]], known: Mapping[str, Leaf]) -> str:
    """Return the message for a setting that the tree of `sections` does not have."""
    section, _, name = key.partition(".")
    if section not in sections:
        hint = f"the sections are: {', '.join(sections)}"
    elif is_open(sections[section]):
        return _no_such(key, one, None, f"write {section}.<name>.<setting>", is_secret=True)
    else:
        hint = f"section {section} has: {', '.join(sections[section].model_fields)}"
    return _no_such(key, one, nearest(key, known), hint, is_secret=not name)


def _no_such(key: str, one: Given, near: Leaf | None, hint: str, *, is_secret: bool = False) -> str:
    if near is not None:
        hint = f"did you mean {near.env_name if one.origin.startswith('env ') else near.key}?"
    # It is not known what an unknown key holds, so a value that may be secret is not shown.
    secret = is_secret or may_be_secret(key) or (near is not None and near.secret)
    return f"{key}={shown(one.value, secret)} ({one.origin}): no such setting; {hint}"


def nearest(key: str, known: Mapping[str, Leaf]) -> Leaf | None:
    """Return the setting that `key` probably means."""
    section, _, name = key.partition(".")
    neighbours = [other for other in known if other.startswith(f"{section}.")]
    elsewhere = [other for other in known if name and other.endswith(f".{name}")]
    close = difflib.get_close_matches(key, neighbours, 1, 0.8) or elsewhere
    close = close or difflib.get_close_matches(key, known, 1, 0.7)
    return known[close[0]] if close else None


def explain(
    error: ValidationError, given: Mapping[str, Given], known: Mapping[str, Leaf], *, under: str = ""
) -> list[str]:
    """Return one sentence per invalid setting, and one per contradiction between settings; `under` is the key of a
    section that was validated alone."""
    found: list[str] = []
    for detail in error.errors(include_url=False):
        key = ".".join([under, str(detail["loc"][0])] if under and detail["loc"] else map(str, detail["loc"][:2]))
        reason = detail["msg"].removeprefix("Value error, ")
        if key in given:
            hint = f"{reason}; " if detail["type"] in ("value_error", "finite_number") else ""
            found.append(_bad_value(known[key], given[key], hint))
        elif detail["type"] == "missing" and key in known:
            found.append(f"{key} is not set and has no default; allowed: {_about(known[key])}")
        else:
            found += [_contradiction(line, given, known) for line in reason.splitlines()]
    return list(dict.fromkeys(found))


def may_be_secret(key: str) -> bool:
    """Return whether a setting is named like something that must not be shown."""
    return _SECRET_NAME.search(key) is not None


def mask_password_in_url(text: str) -> str:
    """Return `text` with the password of any scheme://user:password@host in it masked."""
    return _URL_PASSWORD.sub(rf"\1{MASK}@", text)


def shown(value: Any, secret: bool) -> str:
    """Return `value` in the form in which messages show it."""
    return MASK if secret and value is not None else mask_password_in_url(repr(value))


def _bad_value(leaf: Leaf, one: Given, hint: str) -> str:
    quotes = not isinstance(one.value, str) and leaf.allowed.startswith("text")
    return (
        f"{leaf.key}={shown(one.value, leaf.secret)} ({one.origin}): {hint}allowed: "
        f"{_about(leaf, '; put it in quotes' if quotes else '')}"
    )


def _about(leaf: Leaf, more: str = "") -> str:
    description = f". {leaf.field.description}" if leaf.field.description else ""
    return f"{leaf.allowed}{more}{description}"


def _contradiction(sentence: str, given: Mapping[str, Given], known: Mapping[str, Leaf]) -> str:
    named = dict.fromkeys(key for key in re.findall(r"[a-z0-9]+\.[a-z0-9_]+", sentence) if key in known)
    places = ", ".join(f"{key}: {given[key].origin if key in given else 'default'}" for key in named)
    return f"{sentence} ({places})" if places else sentence


def settings_for(engine: str, settings_class: type[BaseModel] | None, given: Mapping[str, Given]) -> BaseModel | None:
    """Return an instance of `settings_class` made of `given`; None where an engine declares none.

    Raises:
        ConfigurationError: permanent; names every setting the engine does not have, every bad value and what
            is allowed, and every missing setting without a default.
    """
    under = f"engines.{engine}"
    fields = settings_class.model_fields if settings_class is not None else {}
    known = {f"{under}.{name}": Leaf(f"{under}.{name}", field) for name, field in fields.items()}
    mine = {f"{under}.{name}": one for name, one in given.items()}
    hint = f"engine {engine} " + (f"has: {', '.join(fields)}" if fields else "declares no settings_class; leave it out")
    problems = [_no_such(key, one, nearest(key, known), hint) for key, one in mine.items() if key not in known]
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
