"""Loads settings from the environment, a YAML file and the command line, and remembers where each value came from.

Order, the last one wins: variables of other products, the file, INFERSTREAM_ variables, the command line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import ValidationError

from engines.config.setting_problems import ConfigurationError, explain, mask_password_in_url, unknown
from engines.config.settings import ENV_PREFIX, EngineSettings, Given
from engines.config.settings_tree import is_open, leaves, sections

__all__ = ["ConfigurationError", "Loaded", "load", "mask_password_in_url"]

CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
TESTS_PREFIX = f"{ENV_PREFIX}TEST_"
"""Variables of tests and benchmarks, such as the folder of a Kafka release; they are not settings."""

SYNONYMS = {"ollama.timeout": "ollama.timeout_s"}
"""Other accepted names of settings."""

OWN_FILE, LOCAL_FILE = Path("inferstream.yaml"), Path(".local/inferstream.yaml")
DEFAULT_FILES = (OWN_FILE, LOCAL_FILE)
"""Files looked for in the working directory, first match wins; a running `inferstream up` writes the second."""

T = TypeVar("T", bound=EngineSettings)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """A settings tree, and the origin of each value by dotted key: "default", "file PATH:LINE", "env NAME" or "command
    line"."""

    settings: T
    origins: dict[str, str]
    config_file: Path | None


def load(
    root: type[T],
    *,
    config_file: str | Path | None = None,
    overrides: Mapping[str, Any] | Iterable[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded[T]:
    """Return the settings: defaults, then the file, the environment and `overrides`, of which later ones win.

    Variables of other products (`NEIGHBOURS`) are defaults below all of these. `overrides` is {"kafka.group_id": "x"}
    or ["kafka.group_id=x"]. `config_file` wins over INFERSTREAM_CONFIG, and that over DEFAULT_FILES;
    INFERSTREAM_CONFIG=/dev/null reads no file at all.

    Raises:
        ConfigurationError: permanent; names every unknown key and bad value at once, with its origin.
    """
    environ = os.environ if environ is None else environ
    file = _find_file(config_file, environ)
    problems: list[str] = []
    known, opened = leaves(root), {name for name, holder in sections(root).items() if is_open(holder)}
    given = {
        key: Given(read(environ[name]), f"env {name}")
        for name, (key, read) in NEIGHBOURS.items()
        if environ.get(name, "").strip()  # an empty variable sets nothing
    }
    if file is not None:
        given |= _canonical(_read_file(file, opened, problems), problems)
    given |= _canonical(_read_environment(environ, opened), problems)
    given |= _canonical(_read_overrides(overrides or {}, problems), problems)

    given = {key: one for key, one in given.items() if key.partition(".")[0] not in root.foreign_sections}
    own = {key: one for key, one in given.items() if key.partition(".")[0] in opened and all(_path_of(key, opened))}
    strange = [key for key in given if key not in known and key not in own]
    problems += [unknown(key, given[key], sections(root), known) for key in strange]
    given = {key: one for key, one in given.items() if key in known}
    try:
        decoded = {key: known[key].decode(one.value) for key, one in given.items()}
        settings = root.model_validate(_nested(decoded | own, opened))
    except ValidationError as error:
        problems += explain(error, given, known)
    if problems:
        raise ConfigurationError(problems)
    origins = {key: given[key].origin if key in given else "default" for key in known}
    return Loaded(settings, origins | {key: one.origin for key, one in own.items()}, file)


def given_explicitly(
    root: type[EngineSettings], config_file: Path | None, overrides: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Return, by section and name, what a named file and the command line set, as it was written.

    For code that writes settings for another process; the environment and default files are left out.

    Raises:
        ConfigurationError: permanent; as `load`.
    """
    load(root, config_file=config_file or os.devnull, overrides=overrides, environ={})
    opened = {name for name, holder in sections(root).items() if is_open(holder)}
    problems: list[str] = []  # there are none, or `load` would have raised
    given = {} if config_file is None else _canonical(_read_file(config_file, opened, problems), problems)
    given |= _canonical(_read_overrides(overrides, problems), problems)
    return _nested({key: one.value for key, one in given.items()}, opened)


def _canonical(layer: dict[str, Given], problems: list[str]) -> dict[str, Given]:
    """Return the layer with each setting under its own name."""
    canonical = {SYNONYMS.get(key, key): one for key, one in layer.items()}
    problems += [
        f"{key} ({layer[key].origin}) and {own} are one setting; keep one of them"
        for key, own in SYNONYMS.items()
        if key in layer and own in layer
    ]
    return canonical


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


def _read_file(path: Path, opened: Collection[str], problems: list[str]) -> dict[str, Given]:
    try:
        with path.open(encoding="utf-8") as file:  # whose name is in the message about an error
            tree = yaml.compose(file, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(
            [f"{path}: not readable as YAML: {reason}; inferstream config --sample shows a file that is"]
        ) from None
    given: dict[str, Given] = {}
    for key, node, line in _leaf_nodes(tree, path, opened, problems):
        try:
            value = yaml.SafeLoader("").construct_object(node, deep=True)
        except yaml.YAMLError as error:
            problems.append(f"file {path}:{line}: {key} is not readable as YAML: {error}")
        else:
            given[key] = Given(value, f"file {path}:{line}")
    return given


def _leaf_nodes(
    tree: yaml.Node | None, path: Path, opened: Collection[str], problems: list[str]
) -> Iterable[tuple[str, yaml.Node, int]]:
    """Yield key, value and line of every setting in the file; open sections have a level more."""
    for section, body, _ in _entries(tree, path, "", problems):
        for name, node, line in _entries(body, path, f"{section}.", problems):
            if section not in opened:
                yield f"{section}.{name}", node, line
                continue
            for setting, value, its_line in _entries(node, path, f"{section}.{name}.", problems):
                yield f"{section}.{name}.{setting}", value, its_line


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


def _read_environment(environ: Mapping[str, str], opened: Collection[str]) -> dict[str, Given]:
    given: dict[str, Given] = {}
    for name, text in environ.items():
        if name.startswith(ENV_PREFIX) and name != CONFIG_VARIABLE and not name.startswith(TESTS_PREFIX):
            key = name.removeprefix(ENV_PREFIX).lower()
            levels = 2 if key.partition("__")[0] in opened else 1
            given[key.replace("__", ".", levels)] = Given(text, f"env {name}")
    return given


def _read_overrides(overrides: Mapping[str, Any] | Iterable[str], problems: list[str]) -> dict[str, Given]:
    if isinstance(overrides, Mapping):
        return {key: Given(value, "command line") for key, value in overrides.items()}
    given: dict[str, Given] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if equals:
            given[key.strip()] = Given(text, "command line")
        else:
            problems.append(f"{override!r} (command line): write section.name=value, as in kafka.group_id=mine")
    return given


def _path_of(key: str, opened: Collection[str]) -> tuple[str, ...]:
    """Return section and setting of a key, in an open section with the name between, which may hold dots itself."""
    section, _, rest = key.partition(".")
    if section not in opened:
        return section, rest
    name, _, setting = rest.rpartition(".")
    return section, name, setting


def _nested(values: Mapping[str, Any], opened: Collection[str]) -> dict[str, dict[str, Any]]:
    tree: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        *path, name = _path_of(key, opened)
        holder = tree
        for part in path:
            holder = holder.setdefault(part, {})
        holder[name] = value
    return tree


_OLLAMA_PORT = {"http": "80", "https": "443"}
_OLLAMA_OWN_PORT = "11434"


def address_of_ollama_host(host: str) -> str:
    """Return the address in OLLAMA_HOST, which may lack scheme and port.

    Source: https://github.com/ollama/ollama/blob/main/envconfig/config.go, Host. For a server that listens on every
    address it is this machine's.
    """
    scheme, _, rest = host.strip().strip("\"'").rpartition("://")
    authority, slash, path = rest.partition("/")
    name, port = authority, ""
    if not authority.endswith("]") and ":" in authority:
        name, _, port = authority.rpartition(":")
    name = "127.0.0.1" if name in ("", "0.0.0.0", "[::]") else name
    port = port or _OLLAMA_PORT.get(scheme, _OLLAMA_OWN_PORT)
    return f"{scheme or 'http'}://{name}:{port}{slash}{path}".rstrip("/")


NEIGHBOURS: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "KAFKA_BOOTSTRAP_SERVERS": ("kafka.bootstrap_servers", str),
    "MLFLOW_TRACKING_URI": ("mlflow.tracking_uri", str),
    "MLFLOW_TRACKING_USERNAME": ("mlflow.username", str),
    "MLFLOW_TRACKING_PASSWORD": ("mlflow.password", str),
    "OLLAMA_HOST": ("ollama.api_base", address_of_ollama_host),
    "AWS_ENDPOINT_URL": ("s3.endpoint_url", str),
    "AWS_ENDPOINT_URL_S3": ("s3.endpoint_url", str),
    "AWS_DEFAULT_REGION": ("s3.region", str),
    "AWS_REGION": ("s3.region", str),
}
"""Variable -> the setting it stands for, and the conversion of its value; a later one wins over an earlier one.

HF_HOME, NO_COLOR, OTEL_* and AWS credentials are read by the libraries that define them.
"""
