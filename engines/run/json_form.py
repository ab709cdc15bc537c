"""Converts values of results to JSON: numpy and torch values become numbers and lists; other types are errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

_PLAIN = (str, int, bytes, type(None))
_JSON_SCALARS = (str, int, float, type(None))


def plain(value: Any) -> Any:
    """Return the number, text or list for a value of numpy or torch; for msgspec's `enc_hook`.

    Raises:
        TypeError: `value` is something else.
    """
    numbers = value.tolist() if hasattr(value, "tolist") else value
    if type(numbers) is type(value):
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return numbers


def first_wrong(value: Any, path: str, *, is_number: bool) -> str | None:
    """Return a sentence about the first value in `value` that JSON cannot hold, None where none is found.

    "<path> is NaN" where `is_number`, else "<path> is <type>, which has no JSON form".
    """
    try:
        told = next((told for told, of_number in _wrong(value, path) if of_number is is_number), None)
    except Exception:  # noqa: BLE001 - values without end, or that raise when they are asked for their name
        return None
    return told and told.encode(errors="backslashreplace").decode()


def first_bytes(value: Any) -> str | None:
    """Return where the first bytes in `value` are, as "data.images[1]"; None where there are none."""
    parts: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        return "" if isinstance(value, bytes | bytearray | memoryview) else None
    for name, one in parts:
        if not isinstance(one, _JSON_SCALARS) and (place := first_bytes(one)) is not None:
            here = f"[{name}]" if isinstance(name, int) else f"{name}"
            return here + ("." if place and not place.startswith("[") else "") + place
    return None


def _wrong(value: Any, path: str, verb: str = "is") -> Iterator[tuple[str, bool]]:
    """Yield a sentence for everything in `value` that JSON cannot hold, and whether it is a number."""
    if isinstance(value, _PLAIN):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            yield f"{path} {verb} {_named(value)}", True
    elif isinstance(value, Mapping):
        for key, one in value.items():
            if not isinstance(key, _PLAIN):
                yield from _wrong(key, path, "has the key")
            if not isinstance(one, _PLAIN):
                yield from _wrong(one, f"{path}.{key!s:.60}")
    elif isinstance(value, list | tuple | set | frozenset):
        if not _are_numbers(value):
            for index, one in enumerate(value):
                if not isinstance(one, _PLAIN):
                    yield from _wrong(one, f"{path}[{index}]")
    else:
        try:
            # of a value that becomes an object, such as a dataclass
            builtin = msgspec.to_builtins(value, enc_hook=plain)
        except Exception:  # noqa: BLE001 - whatever keeps it from being written
            yield f"{path} {verb} {type(value).__name__}, which has no JSON form", False
        else:
            yield from _wrong(builtin, path, verb)


def _are_numbers(values: Any) -> bool:
    """Return whether the values are surely finite numbers: embeddings are long, and a sum is fast."""
    if not isinstance(values, list | tuple) or not values or not isinstance(values[0], float):
        return False
    try:
        total = sum(values)
    except (TypeError, OverflowError):
        return False
    return isinstance(total, float) and math.isfinite(total)


def _named(number: float) -> str:
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
