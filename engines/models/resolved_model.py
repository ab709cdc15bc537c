"""A registered version: its source and tags; and the key of a loaded model."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from handlers.errors import InvalidRequest, ModelMismatch

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,128}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")

_TAGS_OF_ORIGIN = ("sha256", "revision", "physical_path", "ollama_model_name")
"""Tags that identify the model, beside the source; all others only describe it."""


class VersionId(NamedTuple):
    """Identifies a version for all time: numbers start again at 1 when a model was deleted and registered again."""

    name: str
    version: str
    origin: str
    """Source and tags that identify the model."""


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """One version of a registered model; immutable."""

    name: str
    version: str
    source: str
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    key: str = field(init=False, repr=False, compare=False)
    """`name/version`."""
    id: VersionId = field(init=False, repr=False, compare=False)
    tasks: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """The tasks that its tag `task` names; empty where it serves any."""

    def __post_init__(self) -> None:
        tasks = (named for part in (self.task or "").split(",") if (named := part.strip()))
        origin = (self.source, *(f"{tag}={self.tags[tag]}" for tag in _TAGS_OF_ORIGIN if tag in self.tags))
        object.__setattr__(self, "key", f"{self.name}/{self.version}")
        object.__setattr__(self, "id", VersionId(self.name, self.version, " ".join(origin)))
        object.__setattr__(self, "tasks", tuple(tasks))

    @property
    def task(self) -> str | None:
        """Its tag `task`: one task, or several with commas; None where it serves any."""
        return self.tags.get("task")

    @property
    def engine(self) -> str | None:
        """The engine its tag names; None where it has no such tag."""
        return self.tags.get("engine")


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A registered model: the version of its plain name, and all others."""

    preferred: ResolvedModel
    versions: tuple[str, ...]
    """All its versions, oldest first."""
    aliases: Mapping[str, str] = field(hash=False)
    """The version each alias stands for."""


@dataclass(frozen=True, slots=True)
class ModelReference:
    """The parts of a `model_name`; at most one of `alias` and `version` is set."""

    name: str
    alias: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        if self.alias is not None:
            return f"{self.name}@{self.alias}"
        return self.name if self.version is None else f"{self.name}/{self.version}"


def is_model_name(name: str) -> bool:
    """Return whether `name` may name a registered model: it becomes a file name and a part of an address."""
    return _NAME.fullmatch(name) is not None and name.strip(".") != ""


@functools.lru_cache(maxsize=1024)
def parse_model_name(model_name: str) -> ModelReference:
    """Return the parts of `name`, `name@alias` or `name/version`.

    Raises:
        InvalidRequest: permanent; none of the three forms.
    """
    name, at, alias = model_name.partition("@")
    if at and is_model_name(name) and _ALIAS.fullmatch(alias):
        return ModelReference(name, alias=alias)
    name, slash, version = model_name.partition("/")
    if slash and is_model_name(name) and _VERSION.fullmatch(version):
        return ModelReference(name, version=version)
    if is_model_name(model_name):
        return ModelReference(model_name)
    raise InvalidRequest(
        f"model_name {model_name[:160]!r} is not a model name; write name, name@alias or name/version, where "
        "name is 1 to 128 letters, digits, dots, dashes and underscores"
    )


Use = tuple[str, str]
"""What a model is loaded for: engine and task."""


ANY_TASK = "*"
"""Stands for the task where an engine's load does not depend on it."""


class ModelKey(NamedTuple):
    """The key of a loaded model in the cache and of the batch queue of its requests; shown as
    `engine/task/name/version`."""

    engine: str
    task: str
    name: str
    version: str
    origin: str

    @property
    def use(self) -> Use:
        """Engine and task it is loaded for."""
        return self.engine, self.task

    @property
    def model(self) -> VersionId:
        """The version."""
        return VersionId(self.name, self.version, self.origin)

    def __str__(self) -> str:
        return f"{self.engine}/{self.task}/{self.name}/{self.version}"


@functools.lru_cache(maxsize=1024)
def key_of(engine: str, task: str, version: VersionId) -> ModelKey:
    """Return the key of a version that an engine loads for a task; called for every request."""
    return ModelKey(engine, task, *version)


def check_tags(model: ResolvedModel, *, task: str | None, engine: str) -> None:
    """Check that the model's tags do not contradict the request; a missing tag contradicts nothing.

    Raises:
        ModelMismatch: permanent; says which tag, what it says and what the request said.
    """
    if task is not None and model.tasks and task not in model.tasks:
        raise _mismatch(model, "task", model.tasks, task)
    if (its := model.engine) and engine != its:
        raise _mismatch(model, "engine", (its,), engine)


def _mismatch(model: ResolvedModel, name: str, allowed: tuple[str, ...], asked: str) -> ModelMismatch:
    return ModelMismatch(
        f"model {model.key} is registered with tag {name}={model.tags[name]}, but the request says "
        f"{name}={asked}; ask for {name} {' or '.join(allowed)}, or name another model"
    )
