"""A settings class seen as a flat table of leaves: key, type, bounds, default, description."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from engines.config.settings import ENV_PREFIX

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
