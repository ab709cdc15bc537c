"""Options that a request may write beside its inputs: they mean there what they mean among the options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.base import BaseModelHandler
from handlers.errors import InvalidInput, InvalidOption
from handlers.option_spec import NO_BOUNDS, Bounds, shown


def with_options_in_data(
    handler: BaseModelHandler,
    options: Mapping[str, Any],
    data: Mapping[str, Any],
    engine: str,
    bounds: Bounds = NO_BOUNDS,
) -> dict[str, Any]:
    """Return the validated `options` with those that stand in `data`, checked as they are; null is not given.

    Raises:
        InvalidInput: permanent; a value that the option does not take, and what it takes.
        InvalidOption: permanent; it is given in both places, and not the same.
    """
    joined = dict(options)
    for name in handler.options_in_data:
        if (value := data.get(name)) is None:
            continue
        spec = (handler.options or {})[name]
        try:
            value = spec.check(value, written=name, engine=engine, bounds=bounds)
        except InvalidOption as error:
            raise InvalidInput(error.message.replace("options.", "data.", 1)) from None
        if joined.setdefault(name, value) != value:
            raise InvalidOption(
                f"data.{name} is {shown(value)} and options.{name} is {shown(joined[name])}; give one of them"
            )
    return joined
