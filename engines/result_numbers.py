"""Finds numbers in a result that JSON does not have: NaN and the infinities, which encoders write as null."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

_PLAIN = (str, int, bytes, type(None))


def not_a_number(value: Any, path: str) -> str | None:
    """Return "<path> is NaN" for the first number in `value` that JSON does not have, None where all are right.

    What has no JSON form at all is no concern of this function: the encoder refuses it.
    """
    try:
        return next(_wrong(value, path), None)
    except RecursionError:
        return None


def _wrong(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, _PLAIN):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            yield f"{path} is {_named(value)}"
    elif isinstance(value, Mapping):
        for key, one in value.items():
            if isinstance(key, float) and not math.isfinite(key):
                yield f"{path} has the key {_named(key)}"
            if not isinstance(one, _PLAIN):
                yield from _wrong(one, f"{path}.{key}")
    elif isinstance(value, list | tuple | set | frozenset):
        if not _are_numbers(value):
            for index, one in enumerate(value):
                if not isinstance(one, _PLAIN):
                    yield from _wrong(one, f"{path}[{index}]")
    else:
        yield from _wrong_in_object(value, path)


def _are_numbers(values: Any) -> bool:
    """Return whether the values are finite numbers for sure: embeddings are long, and a sum is quick."""
    if not isinstance(values, list | tuple) or not values or not isinstance(values[0], float):
        return False
    try:
        return math.isfinite(sum(values))
    except (TypeError, OverflowError):
        return False


def _wrong_in_object(value: Any, path: str) -> Iterator[str]:
    """Look into what the encoder writes as an object, such as a dataclass."""
    try:
        plain = msgspec.to_builtins(value)
    except Exception:  # noqa: BLE001 - it has no JSON form, which the encoder tells
        return
    if type(plain) is not type(value):
        yield from _wrong(plain, path)


def _named(number: float) -> str:
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
