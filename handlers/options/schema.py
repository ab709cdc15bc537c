"""The options of a task as JSON Schema, for editors, code generators and OpenAPI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from handlers.options.options import OPTIONS, options_of
from handlers.options.spec import OptionSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def options_schema(task: str, engine: str | None = None) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the `options` of a request for `task`.

    It accepts what `validate_options` accepts for `engine`, or for any engine where that is None or not one of
    the built-in ones. Two things it cannot say: an option given under two names must have one value, and what the
    settings of a worker allow at most. For a task that the table does not name, use `schema_of` with the options
    of its handler.
    """
    return schema_of(options_of(task) or None, engine, title=f"options of {task}")


def schema_of(
    task_options: Mapping[str, OptionSpec] | None, engine: str | None = None, *, title: str = "options"
) -> dict[str, Any]:
    """Return the JSON Schema of options; with None, known names are described and others pass."""
    specs = (OPTIONS if task_options is None else task_options).values()
    of_engine = [spec for spec in specs if spec.applies_to(engine)]
    properties: dict[str, Any] = dict(pair for spec in of_engine for pair in _properties(spec, engine))
    for spec in specs:
        if not spec.applies_to(engine) and spec.neutral is not None:
            properties[spec.name] = {"description": spec.description, "enum": [spec.neutral, None]}
    schema = {
        "$schema": DIALECT,
        "title": title,
        "type": ["object", "null"],
        "properties": properties,
        "additionalProperties": task_options is None,
    }
    of_others = sorted({name for spec in specs for name in spec.names} - properties.keys())
    if of_others:  # null counts as not given, for every option
        schema["patternProperties"] = {f"^({'|'.join(of_others)})$": {"type": "null"}}
    return schema


def _properties(spec: OptionSpec, engine: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the option under each of its names; null counts as not given."""
    values = {"anyOf": [spec.schema(engine), {"type": "null"}]}
    yield spec.name, {"description": spec.description, **values}
    for owner, name in spec.engine_names.items():
        yield name, {"description": f"What {owner} calls {spec.name}.", **values}
