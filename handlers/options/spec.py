"""One option: its name, allowed values and tasks, the check of a value, and its JSON Schema."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from handlers.errors import InvalidOption

BUILT_IN_ENGINES = frozenset({"transformers", "ollama"})
"""Engines whose options are known here; a custom engine gets every known option and decides itself."""

Kind = Literal["integer", "number", "boolean", "string", "strings", "choice", "duration", "format"]

Bounds = Mapping[str, int]
"""The largest values that settings allow, by the setting's name as in "limits.max_tokens"."""

MOST = 2**31 - 1
"""The maximum of an option whose bound is a setting."""

NO_BOUNDS: Bounds = MappingProxyType({})

# Source: https://pkg.go.dev/time#ParseDuration
_GO_DURATION = r"-?([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+"


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """One option; immutable, shared by every thread.

    `minimum` and `maximum` are inclusive; for kind "strings" they bound how many. `choices` are the values of kind
    "choice". `engines` and `tasks` name where the option applies; empty: everywhere. `engine_names` is what an engine
    calls it, where that differs; requests may use either name. `engine_values` are further whole numbers that an
    engine takes, outside the range. `bound` names the setting of the largest value; `maximum` is then MOST. `longest`
    is the most characters of a string. `neutral` is the value that changes nothing: an engine without this option
    accepts it and does without.
    """

    name: str
    kind: Kind
    description: str
    minimum: int | float | None = None
    maximum: int | float | None = None
    choices: tuple[Any, ...] = ()
    engines: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    engine_names: Mapping[str, str] = field(default_factory=dict)
    engine_values: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    bound: str = ""
    longest: int | None = None
    neutral: Any = None

    def __post_init__(self) -> None:
        if self.bound and self.maximum is None:
            object.__setattr__(self, "maximum", MOST)

    @property
    def names(self) -> tuple[str, ...]:
        """The canonical name, then the engines' names."""
        return (self.name, *self.engine_names.values())

    def applies_to(self, engine: str | None) -> bool:
        """Return whether `engine` takes it; None stands for any engine."""
        return not self.engines or engine not in BUILT_IN_ENGINES or engine in self.engines

    def is_neutral(self, value: Any) -> bool:
        """Return whether `value` changes nothing, so that an engine without this option may ignore it."""
        return self.neutral is not None and _is_same(value, self.neutral)

    @property
    def allowed(self) -> str:
        """The allowed values, as a phrase: "a number from 0 to 2". A bound is named, not its value."""
        match self.kind:
            case "integer" | "number":
                also = "".join(
                    f" ({engine}: also {', '.join(map(str, values))})" for engine, values in self.engine_values.items()
                )
                low = "" if self.minimum is None else f" from {self.minimum}"
                high = "" if self.maximum is None else f" to {self.bound or self.maximum}"
                return f"{'an integer' if self.kind == 'integer' else 'a number'}{low}{high}{also}"
            case "boolean":
                return "true or false"
            case "string":
                return f"a non-empty string{self._characters}"
            case "strings":
                most = "" if self.maximum is None else f" of at most {self.maximum:g}"
                return f"a non-empty string or a list{most} of them{self._characters}"
            case "choice":
                return "one of " + ", ".join(shown(choice) for choice in self.choices)
            case "duration":
                return 'a number of seconds or a duration such as "5m" or "1h30m"'
            case "format":
                return '"json" or a JSON Schema object'

    def check(self, value: Any, *, written: str, engine: str | None = None, bounds: Bounds = NO_BOUNDS) -> Any:
        """Return `value` as it is passed on: a float for kind "number", an int for "integer", a list of strings.

        As in JSON, 2 and 2.0 are one number. `engine` is the one it is for; None stands for any. A value that
        asks an engine for as much as there is (`engine_values`) becomes the bound.

        Raises:
            InvalidOption: permanent; names the option as `written`, the value and what is allowed.
        """
        most = bounds.get(self.bound)
        if most is not None and _is_whole_number(value) and value > most:
            raise over_bound(written, value, most, self.bound)
        if (taken := self._taken(value, engine)) is None:
            bound = "" if most is None else f"; {self.bound} is {most}"
            raise InvalidOption(f"options.{written} is {shown(value)}; it must be {self.allowed}{bound}")
        return most if most is not None and value in self._values_of(engine) else taken

    def _taken(self, value: Any, engine: str | None) -> Any:
        """Return `value` as it is passed on, None where it is not allowed."""
        match self.kind:
            case "integer" if _is_whole_number(value):
                return int(value) if self._within(value) or value in self._values_of(engine) else None
            case "number" if _is_finite_number(value) and self._within(value):
                return float(value)
            case "boolean" if isinstance(value, bool):
                return value
            case "string" if isinstance(value, str) and value.strip() and self._is_short(value):
                return value
            case "strings":
                strings = [value] if isinstance(value, str) else value
                if not isinstance(strings, list | tuple) or not self._within(len(strings)):
                    return None
                is_allowed = all(isinstance(one, str) and one and self._is_short(one) for one in strings)
                return list(strings) if is_allowed else None
            case "choice":
                return next((choice for choice in self.choices if _is_same(value, choice)), None)
            case "duration" if isinstance(value, str):
                return value if re.fullmatch(_GO_DURATION, value) else None
            case "duration" if _is_finite_number(value):
                return value
            case "format" if value == "json" or (isinstance(value, Mapping) and value):
                return value
        return None

    def schema(self, engine: str | None = None) -> dict[str, Any]:
        """Return the JSON Schema of the values that `check` accepts for `engine`."""
        limits = {"minimum": self.minimum, "maximum": self.maximum}
        bounds = {name: limit for name, limit in limits.items() if limit is not None}
        longest = {} if self.longest is None else {"maxLength": self.longest}
        match self.kind:
            case "integer" | "number":
                within = {"type": self.kind, **bounds}
                besides = self._values_of(engine)
                return {"anyOf": [within, {"enum": list(besides)}]} if besides else within
            case "boolean":
                return {"type": "boolean"}
            case "string":
                return {"type": "string", "pattern": r"\S", **longest}
            case "strings":
                one = {"type": "string", "minLength": 1, **longest}
                counts = {name.replace("imum", "Items"): limit for name, limit in bounds.items()}
                return {"anyOf": [one, {"type": "array", "items": one, **counts}]}
            case "choice":
                return {"enum": list(self.choices)}
            case "duration":
                return {"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^(?:{_GO_DURATION})$"}]}
            case "format":
                return {"anyOf": [{"const": "json"}, {"type": "object", "minProperties": 1}]}

    def _is_short(self, text: str) -> bool:
        return self.longest is None or len(text) <= self.longest

    def _within(self, number: float) -> bool:
        low = self.minimum is None or number >= self.minimum
        return low and (self.maximum is None or number <= self.maximum)

    def _values_of(self, engine: str | None) -> tuple[int, ...]:
        """Return the values beyond the range that `engine` takes."""
        if engine in BUILT_IN_ENGINES:
            return self.engine_values.get(engine, ())
        return tuple(value for values in self.engine_values.values() for value in values)

    @property
    def _characters(self) -> str:
        return "" if self.longest is None else f", with at most {self.longest} characters"


def schema_of(
    options: Mapping[str, OptionSpec], engine: str | None = None, *, title: str = "options", others_pass: bool = False
) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the `options` of a task.

    It accepts what `handlers.options.options.validate_options` accepts for `engine`, or for any engine where that is
    None or not one of the built-in ones. Two things it cannot say: an option given under two names must have one
    value, and what the settings of a worker allow at most.
    """
    properties: dict[str, Any] = {}
    for spec in options.values():
        if spec.applies_to(engine):
            values = {"anyOf": [spec.schema(engine), {"type": "null"}]}  # null counts as not given, for every option
            properties[spec.name] = {"description": spec.description, **values}
            for owner, name in spec.engine_names.items():
                properties[name] = {"description": f"What {owner} calls {spec.name}.", **values}
        elif spec.neutral is not None:
            properties[spec.name] = {"description": spec.description, "enum": [spec.neutral, None]}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": ["object", "null"],
        "properties": properties,
        "additionalProperties": others_pass,
    }
    of_others = sorted({name for spec in options.values() for name in spec.names} - properties.keys())
    if of_others:
        schema["patternProperties"] = {f"^({'|'.join(of_others)})$": {"type": "null"}}
    return schema


def over_bound(written: str, value: float, most: int, setting: str) -> InvalidOption:
    """Return the error for a value above the limit in the settings."""
    return InvalidOption(
        f"options.{written} is {shown(value)}; {setting} allows at most {most}: ask for less, or have the "
        "operator raise that setting"
    )


def shown(value: Any) -> str:
    """Return `value` as a message shows it: the JSON way, and short."""
    match value:
        case bool():
            text = "true" if value else "false"
        case str():
            text = f'"{value}"'
        case int() if value.bit_length() > 300:
            text = f"an integer of {value.bit_length()} bits"
        case _:
            try:
                text = repr(value)
            except ValueError:  # an integer in it has more digits than Python writes
                text = f"a {type(value).__name__} with an integer that is too large to show"
    return text if len(text) <= 80 else text[:80] + "…"


def _is_finite_number(value: Any) -> bool:
    # An integer of any size is finite; math.isfinite would overflow on a huge one.
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))


def _is_whole_number(value: Any) -> bool:
    return type(value) is int or (isinstance(value, float) and value.is_integer())


def _is_same(value: Any, choice: Any) -> bool:
    # True == 1 in Python, yet true is not a version of mirostat, nor 1 a degree of thinking.
    return isinstance(value, bool) == isinstance(choice, bool) and bool(value == choice)
