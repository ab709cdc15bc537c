"""A settings class seen as a flat table of leaves: key, type, bounds, default; and messages about invalid values: the
key, the value, its origin, and what is allowed."""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from engines.config.settings import ENV_PREFIX, Given

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    SecretStr: "text",
    Path: "a path",
}
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
_NOTHING = frozenset({"", "null", "none"})


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting: its dotted key and the field that declares it."""

    key: str
    field: FieldInfo

    @property
    def env_name(self) -> str:
        """The environment variable that sets it."""
        return ENV_PREFIX + self.key.upper().replace(".", "__")

    @property
    def kind(self) -> Any:
        """Its type without Annotated and without None; `tuple` where it is a list."""
        return _unwrap(self.field.annotation)[0]

    @property
    def optional(self) -> bool:
        """Whether it may be unset (None)."""
        return _unwrap(self.field.annotation)[1]

    @property
    def secret(self) -> bool:
        """Whether its value must never be shown."""
        return self.kind is SecretStr

    @property
    def allowed(self) -> str:
        """The allowed values, in words."""
        if get_origin(self.kind) is Literal:
            words = "one of " + ", ".join(str(choice) for choice in get_args(self.kind))
        elif self.kind is tuple:
            words = "a list (a,b or JSON)"
        else:
            words = " ".join([_KINDS.get(self.kind, "a value"), ", ".join(self._bounds())]).rstrip()
        return f"{words}, or null" if self.optional else words

    @property
    def example(self) -> Any:
        """Its default, or a typical value where the default is unset or differs between machines."""
        if self.field.examples:
            return self.field.examples[0]
        return None if self.field.is_required() else self.field.get_default(call_default_factory=True)

    def decode(self, value: Any) -> Any:
        """Return `value` ready for validation: parses the text of a list or of an empty value."""
        if isinstance(value, bool) and self.kind in (int, float):
            return str(value)  # true is not a number, though it equals 1 in Python
        if not isinstance(value, str):
            return value
        if self.kind is tuple:
            return _decode_list(value)
        return None if self.optional and value.strip().lower() in _NOTHING else value

    def _bounds(self) -> Iterator[str]:
        for constraint in self.field.metadata:
            for name, word in _BOUNDS.items():
                if (bound := getattr(constraint, name, None)) is not None:
                    yield f"{word} {bound}"
            if getattr(constraint, "min_length", None):
                yield "that is not empty"
            if pattern := getattr(constraint, "pattern", None):
                such = "" if self.example is None else f"such as {self.example} "
                yield f"{such}(pattern {pattern})"


def leaves(root: type[BaseModel]) -> dict[str, Leaf]:
    """Return every setting of the tree by its dotted key, in the order of declaration."""
    return {
        f"{section}.{name}": Leaf(f"{section}.{name}", field)
        for section, holder in sections(root).items()
        for name, field in holder.model_fields.items()
    }


def is_open(section: type[BaseModel]) -> bool:
    """Return whether the names in a section are not known beforehand, as with custom engines."""
    return section.model_config.get("extra") == "allow"


def sections(root: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the tree's sections by name, in the order of declaration."""
    return {name: cast("type[BaseModel]", field.annotation) for name, field in root.model_fields.items()}


def _unwrap(annotation: Any) -> tuple[Any, bool]:
    optional = False
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        optional = len(members) < len(get_args(annotation))
        annotation = members[0] if len(members) == 1 else annotation
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return (tuple, optional) if get_origin(annotation) in (tuple, list, set) else (annotation, optional)


def _decode_list(text: str) -> Any:
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text  # validation refuses it and shows the value as it was written
    return [part.strip() for part in text.split(",") if part.strip()]


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
