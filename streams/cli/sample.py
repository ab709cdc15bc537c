"""The commented sample file, made from the settings tree so that it cannot lag behind it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from engines.config.settings_tree import Leaf, leaves, sections

_WIDTH = 110
_HEAD = """\
Settings of inferstream, made by: inferstream config --sample
Every line is optional. What is commented out shows the default (or an example, where the default is unset
or differs between machines). Stronger than this file are the environment, INFERSTREAM_<SECTION>__<NAME>,
and the command line, --set section.name=value; keep passwords in the environment.
"""


def sample_yaml(root: type[BaseModel]) -> str:
    """Return a YAML file that names every setting of the tree, all commented out, with what each takes."""
    return "\n".join(_lines(root)) + "\n"


def _lines(root: type[BaseModel]) -> Iterator[str]:
    yield from (f"# {line}" for line in _HEAD.splitlines())
    known = leaves(root)
    for section, holder in sections(root).items():
        yield ""
        yield f"# {(holder.__doc__ or '').strip()}"
        yield f"{section}:"
        for name in holder.model_fields:
            leaf = known[f"{section}.{name}"]
            yield from textwrap.wrap(_comment(leaf), _WIDTH, initial_indent="  # ", subsequent_indent="  # ")
            yield f"  #{name}: {_yaml(leaf.example)}"


def _comment(leaf: Leaf) -> str:
    return f"{leaf.field.description} Takes {leaf.allowed}."


def _yaml(value: Any) -> str:
    # JSON is YAML, and unlike a YAML dump it is the same with every version of the library.
    if isinstance(value, Path):
        value = str(value)
    return json.dumps(value, ensure_ascii=False)
