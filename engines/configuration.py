"""Loads a settings tree: YAML file < environment < command line, remembering where each value came from."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import ValidationError

from engines.settings import ENV_PREFIX, EngineSettings
from engines.settings_tree import Leaf, leaves, sections

CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
DEFAULT_FILES = (Path("inferstream.yaml"), Path(".local/inferstream.yaml"))
"""Looked for in the working directory, first match wins; a running `inferstream up` writes the second."""

MASK = "********"
_URL_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@/\s]+@")
_SECRET_NAME = re.compile(r"pass|pwd|secret|token|key", re.IGNORECASE)

T = TypeVar("T", bound=EngineSettings)


class ConfigurationError(Exception):
    """Raised when settings are not usable; `problems` holds one sentence for each thing to mend."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """A settings tree, and by dotted key the origin of each value.

    An origin is "default", "file PATH:LINE", "env NAME" or "command line".
    """

    settings: T
    origins: dict[str, str]
    config_file: Path | None


@dataclass(frozen=True, slots=True)
class _Given:
    value: Any
    origin: str


def load(
    root: type[T],
    *,
    config_file: str | Path | None = None,
    overrides: Mapping[str, Any] | Iterable[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded[T]:
    """Return the tree that the file, the environment and `overrides` (later ones win) make of the defaults.

    `overrides` is {"kafka.group_id": "x"} or ["kafka.group_id=x"]. `config_file` wins over
    INFERSTREAM_CONFIG, and that over DEFAULT_FILES; INFERSTREAM_CONFIG=/dev/null reads no file at all.

    Raises:
        ConfigurationError: permanent; names every unknown key and bad value at once, with its origin.
    """
    environ = os.environ if environ is None else environ
    file = _find_file(config_file, environ)
    problems: list[str] = []
    given: dict[str, _Given] = {}
    if file is not None:
        given |= _read_file(file, problems)
    given |= _read_environment(environ)
    given |= _read_overrides(overrides or {}, problems)

    given = {key: one for key, one in given.items() if key.partition(".")[0] not in root.foreign_sections}
    known = leaves(root)
    problems += [_unknown(key, one, root, known) for key, one in given.items() if key not in known]
    given = {key: one for key, one in given.items() if key in known}
    try:
        settings = root.model_validate(_nested(given, known))
    except ValidationError as error:
        problems += _explain(error, given, known)
    if problems:
        raise ConfigurationError(problems)
    origins = {key: given[key].origin if key in given else "default" for key in known}
    return Loaded(settings, origins, file)


def _find_file(config_file: str | Path | None, environ: Mapping[str, str]) -> Path | None:
    named = config_file or environ.get(CONFIG_VARIABLE)
    if not named:
        return next((path for path in DEFAULT_FILES if path.is_file()), None)
    path = Path(named).expanduser()
    if not path.exists():
        source = "command line" if config_file else f"env {CONFIG_VARIABLE}"
        raise ConfigurationError(
            [f"{path} ({source}): no such file; write one with: inferstream config --sample > {path}"]
        )
    return path


def _read_file(path: Path, problems: list[str]) -> dict[str, _Given]:
    try:
        tree = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{path}: not readable as YAML: {error}"]) from None
    given: dict[str, _Given] = {}
    for section, body, _ in _entries(tree, path, "", problems):
        for name, node, line in _entries(body, path, f"{section}.", problems):
            try:
                value = yaml.SafeLoader("").construct_object(node, deep=True)
            except yaml.YAMLError as error:
                problems.append(f"file {path}:{line}: {section}.{name} is not readable as YAML: {error}")
            else:
                given[f"{section}.{name}"] = _Given(value, f"file {path}:{line}")
    return given


def _entries(
    node: yaml.Node | None, path: Path, prefix: str, problems: list[str]
) -> Iterable[tuple[str, yaml.Node, int]]:
    """Yield key, value and line of a YAML mapping; an empty node is an empty mapping."""
    if node is None or node.tag == "tag:yaml.org,2002:null":
        return
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        place = f"section {prefix.rstrip('.')}" if prefix else "the file"
        problems.append(f"file {path}:{line}: {place} must be a mapping of names to values")
        return
    seen: set[str] = set()
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in seen:
            problems.append(f"file {path}:{line}: {prefix}{key} is set twice; keep one of them")
        seen.add(key)
        yield key, value_node, line


def _read_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    return {
        name.removeprefix(ENV_PREFIX).lower().replace("__", ".", 1): _Given(text, f"env {name}")
        for name, text in environ.items()
        if name.startswith(ENV_PREFIX) and name != CONFIG_VARIABLE
    }


def _read_overrides(overrides: Mapping[str, Any] | Iterable[str], problems: list[str]) -> dict[str, _Given]:
    if isinstance(overrides, Mapping):
        return {key: _Given(value, "command line") for key, value in overrides.items()}
    given: dict[str, _Given] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if equals:
            given[key.strip()] = _Given(text, "command line")
        else:
            problems.append(
                f"{override!r} (command line): write section.name=value, as in kafka.group_id=mine"
            )
    return given


def _nested(given: Mapping[str, _Given], known: Mapping[str, Leaf]) -> dict[str, dict[str, Any]]:
    tree: dict[str, dict[str, Any]] = {}
    for key, one in given.items():
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = known[key].decode(one.value)
    return tree


def _unknown(key: str, one: _Given, root: type[EngineSettings], known: Mapping[str, Leaf]) -> str:
    section, _, name = key.partition(".")
    names = sections(root)
    nearest = _nearest(key, known)
    if nearest:
        hint = f"did you mean {nearest.env_name if one.origin.startswith('env ') else nearest.key}?"
    elif section in names:
        hint = f"section {section} has: {', '.join(names[section].model_fields)}"
    else:
        hint = f"the sections are: {', '.join(names)}"
    # Nothing says what an unknown key holds, so whatever may be a secret is not shown.
    secret = not name or bool(_SECRET_NAME.search(key)) or (nearest is not None and nearest.secret)
    return f"{key}={_shown(one.value, secret)} ({one.origin}): no such setting; {hint}"


def _nearest(key: str, known: Mapping[str, Leaf]) -> Leaf | None:
    section, _, name = key.partition(".")
    neighbours = [other for other in known if other.startswith(f"{section}.")]
    elsewhere = [other for other in known if name and other.endswith(f".{name}")]
    close = difflib.get_close_matches(key, neighbours, 1, 0.8) or elsewhere
    close = close or difflib.get_close_matches(key, known, 1, 0.7)
    return known[close[0]] if close else None


def _explain(error: ValidationError, given: Mapping[str, _Given], known: Mapping[str, Leaf]) -> list[str]:
    """Return one sentence per bad setting, and one per contradiction between settings."""
    found: dict[str, None] = {}
    for detail in error.errors(include_url=False):
        key = ".".join(str(part) for part in detail["loc"][:2])
        reason = detail["msg"].removeprefix("Value error, ")
        if key in given:
            found[_bad_value(known[key], given[key], reason if detail["type"] == "value_error" else "")] = (
                None
            )
        else:
            found |= dict.fromkeys(_contradiction(line, given, known) for line in reason.splitlines())
    return list(found)


def _bad_value(leaf: Leaf, one: _Given, reason: str) -> str:
    hint = f"allowed: {leaf.allowed}"
    if not isinstance(one.value, str) and leaf.allowed.startswith("text"):
        hint += "; put it in quotes"
    sentence = f"{leaf.key}={_shown(one.value, leaf.secret)} ({one.origin}): "
    return sentence + (f"{reason}; {hint}" if reason else hint) + f". {leaf.field.description}"


def _contradiction(sentence: str, given: Mapping[str, _Given], known: Mapping[str, Leaf]) -> str:
    named = dict.fromkeys(key for key in re.findall(r"[a-z0-9]+\.[a-z0-9_]+", sentence) if key in known)
    places = ", ".join(f"{key}: {given[key].origin if key in given else 'default'}" for key in named)
    return f"{sentence} ({places})" if places else sentence


def mask_password_in_url(text: str) -> str:
    """Return `text` with the password of any scheme://user:password@host in it masked."""
    return _URL_PASSWORD.sub(rf"\1{MASK}@", text)


def _shown(value: Any, secret: bool) -> str:
    return MASK if secret and value is not None else mask_password_in_url(repr(value))
