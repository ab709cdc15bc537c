"""Just so much of JSON Schema 2020-12 as the schemas of options and requests use; an unknown keyword is an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_ANNOTATIONS = frozenset({"$schema", "title", "description", "default", "examples", "format"})
_TYPES: dict[str, Any] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list | tuple),
    "object": lambda value: isinstance(value, Mapping),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: _TYPES["number"](value) and (isinstance(value, int) or value.is_integer()),
}


def is_valid(value: Any, schema: Mapping[str, Any]) -> bool:
    """Return whether `value`, as JSON could hold it, fits `schema`."""
    return all(_fits(value, keyword, rule, schema) for keyword, rule in schema.items() if keyword not in _ANNOTATIONS)


def _fits(value: Any, keyword: str, rule: Any, schema: Mapping[str, Any]) -> bool:
    is_a = {name: test(value) for name, test in _TYPES.items()}
    match keyword:
        case "type":
            return any(is_a[name] for name in ([rule] if isinstance(rule, str) else rule))
        case "anyOf":
            return any(is_valid(value, one) for one in rule)
        case "const":
            return _is_equal(value, rule)
        case "enum":
            return any(_is_equal(value, one) for one in rule)
        case "minimum":
            return not is_a["number"] or value >= rule
        case "maximum":
            return not is_a["number"] or value <= rule
        case "required":
            return not is_a["object"] or all(name in value for name in rule)
        case "maxLength":
            return not is_a["string"] or len(value) <= rule
        case "minLength":
            return not is_a["string"] or len(value) >= rule
        case "pattern":
            return not is_a["string"] or re.search(re.sub(r"\$$", r"\\Z", rule), value) is not None
        case "items":
            return not is_a["array"] or all(is_valid(one, rule) for one in value)
        case "minItems":
            return not is_a["array"] or len(value) >= rule
        case "maxItems":
            return not is_a["array"] or len(value) <= rule
        case "minProperties":
            return not is_a["object"] or len(value) >= rule
        case "properties":
            return not is_a["object"] or all(is_valid(value[name], rule[name]) for name in rule.keys() & value)
        case "patternProperties":
            return not is_a["object"] or all(
                is_valid(value[name], of_name)
                for pattern, of_name in rule.items()
                for name in value
                if re.search(pattern, name)
            )
        case "additionalProperties":
            patterns = schema.get("patternProperties", {})
            others = set(value) - set(schema["properties"]) if is_a["object"] else set()
            return rule or all(any(re.search(pattern, name) for pattern in patterns) for name in others)
    raise AssertionError(f"the schema uses {keyword}, which this validator does not know")


def _is_equal(value: Any, other: Any) -> bool:
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)
