"""How much memory the weights in a folder will take, told from what the heads of their files say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Numbers that are converted to the format of the model when it is loaded."""

_BYTES_OF_OTHERS = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}
"""Numbers that stay as they are; those not named take one byte."""


def bytes_in_memory(folder: Path, bytes_of_a_float: int) -> int | None:
    """Return the bytes of the safetensors in `folder` and in its `detection/` and `recognition/` once loaded.

    What is laid out anew or left out on the way into memory is not known here. None where there are no
    safetensors, or none that can be read: whoever loads them says what is wrong.
    """
    from safetensors import SafetensorError, safe_open

    total: int | None = None
    try:
        for file in _weight_files((folder, folder / "detection", folder / "recognition")):
            with safe_open(file, framework="numpy") as weights:
                parts = [weights.get_slice(name) for name in weights.keys()]  # noqa: SIM118 - no mapping
                total = (total or 0) + sum(
                    math.prod(part.get_shape())
                    * (
                        bytes_of_a_float
                        if (kind := part.get_dtype()) in _FLOATS
                        else _BYTES_OF_OTHERS.get(kind, 1)
                    )
                    for part in parts
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None
    return total


def _weight_files(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the files that transformers loads of each folder: one, or those that an index names."""
    for folder in folders:
        single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
        if single.is_file():
            yield single
        elif index.is_file():
            for name in sorted(set(json.loads(index.read_text())["weight_map"].values())):
                yield folder / name
