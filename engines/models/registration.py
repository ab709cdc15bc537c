"""Registers a model in MLflow: uploads its folder, or stores a reference to its files."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from engines.models.flavours import digest_of, files_in
from engines.models.hub import find_on_hub, snapshot_in
from engines.models.mlflow_registry import MlflowRegistry, unreadable
from engines.models.resolved_model import ResolvedModel, is_model_name
from engines.ollama.request import is_valid_name
from handlers.errors import InvalidRequest

ModelSource = Literal["huggingface", "ollama", "local"]

_HUB_NAME = re.compile(r"(?:hf://)?(\w[\w.-]*/\w[\w.-]*)")
_ABOUT = re.compile(r"readme.*|licen[cs]e.*|notice.*|copying.*|\.gitattributes|\.gitignore|.*\.(md|rst)", re.IGNORECASE)
"""Files that describe a model and do not belong to it."""
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack")
ADAPTER = (
    "holds a PEFT adapter, not a whole model; merge it into its base model (model.merge_and_unload()), save that with "
    "save_pretrained, and register that folder"
)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def register(
    registry: MlflowRegistry,
    *,
    model_name: str,
    model_source: str,
    model_path: str | Path | None = None,
    tags: Mapping[str, str] | None = None,
) -> ResolvedModel:
    """Register a version of `model_name` and return it.

    - `huggingface`: `model_path` is a folder in the Hugging Face layout, or one of the hub client's cache
      (`models--org--name`), which is uploaded; or `hf://org/name` (or no path and the tag `repo_id`), which is
      recorded, with the commit it stands for now where that can be learned, and fetched by the workers.
    - `local`: `model_path` is any folder of model files, which is uploaded. Without a path, the tag
      `physical_path` names a folder that every worker has under its `mlflow.physical_roots`.
    - `ollama`: the tag `ollama_model_name`, or `model_path`, is the name that the Ollama server knows.

    Known tags: task, engine, repo_id, revision, ollama_model_name, physical_path; others are kept. An upload
    gets the tag `sha256`, by which downloads are checked. Where the newest version has the same files and
    tags it is returned and nothing is created.

    Raises:
        InvalidRequest: permanent; names the argument and what is allowed.
        RegistryUnavailable: retryable.
    """
    if not is_model_name(model_name):
        raise InvalidRequest(
            f"model_name {model_name[:160]!r} cannot be registered; use 1 to 128 letters, digits, dots, "
            "dashes and underscores"
        )
    all_tags = {str(name): str(value) for name, value in (tags or {}).items()}
    if model_source == "ollama":
        return _by_reference(registry, model_name, *_ollama(model_name, model_path, all_tags))
    if model_source not in get_args(ModelSource):
        raise InvalidRequest(f"model_source {model_source!r} is none of {', '.join(get_args(ModelSource))}")
    if model_source == "huggingface":
        all_tags.setdefault("engine", "transformers")
        folder = None if model_path is None else Path(model_path).expanduser()
        named = _HUB_NAME.fullmatch(str(model_path if model_path is not None else all_tags.get("repo_id", "")))
        if named is not None and (folder is None or not folder.is_dir()):
            all_tags.setdefault("repo_id", named[1])
            source = f"hf://{named[1]}"
            commit, names = find_on_hub(named[1], all_tags.get("revision"))
            if commit is not None:
                all_tags["revision"] = commit
            if names is not None and all_tags["engine"] == "transformers":
                _check_content(source, names, is_transformers=True)
            return _by_reference(registry, model_name, source, all_tags)
        snapshot = None if folder is None else snapshot_in(folder)
        if snapshot is not None:
            model_path, known = snapshot
            all_tags = {**known, **all_tags}
    elif model_path is None and "physical_path" in all_tags:
        return _by_reference(registry, model_name, f"physical://local/{model_name}", all_tags)
    return _uploaded(registry, model_name, _folder(model_source, model_path), all_tags)


def _uploaded(registry: MlflowRegistry, model_name: str, folder: Path, tags: dict[str, str]) -> ResolvedModel:
    try:
        tags["sha256"] = digest_of(folder)
    except OSError as error:
        raise unreadable(error) from error
    newest = registry.newest(model_name)
    if newest is not None and dict(newest.tags) == tags:
        return newest
    source, model_id = registry.upload(model_name, folder)
    return registry.create_version(model_name, source, tags, model_id=model_id)


def _by_reference(registry: MlflowRegistry, model_name: str, source: str, tags: dict[str, str]) -> ResolvedModel:
    newest = registry.newest(model_name)
    if newest is not None and newest.source == source and dict(newest.tags) == tags:
        return newest
    return registry.create_version(model_name, source, tags)


def _ollama(model_name: str, model_path: str | Path | None, tags: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return source and tags of a model on an Ollama server."""
    name = tags.setdefault("ollama_model_name", str(model_path) if model_path is not None else "")
    if not name:
        raise InvalidRequest(
            f"model {model_name} with model_source ollama needs the tag ollama_model_name, the name that the "
            "Ollama server knows, like llama3.2:1b"
        )
    if not is_valid_name(name):
        raise InvalidRequest(
            f"the tag ollama_model_name {name[:160]!r} is not a name that Ollama takes; write it as `ollama list` "
            "does, like llama3.2:1b or hf.co/org/repo:Q4_K_M"
        )
    tags.setdefault("engine", "ollama")
    return f"ollama://local/{_UNSAFE.sub('-', name).strip('-')}", tags


def _folder(model_source: str, model_path: str | Path | None) -> Path:
    if model_path is None:
        raise InvalidRequest(
            f"model_path is required for model_source {model_source}: the folder of the model (--path)"
        )
    folder = Path(model_path).expanduser()
    if not folder.is_dir() or not files_in(folder):
        what = "is not a folder" if not folder.is_dir() else "is an empty folder"
        also = ", or hf://org/name" if model_source == "huggingface" else ""
        raise InvalidRequest(f"model_path {str(model_path)!r} {what}; give the folder with the model's files{also}")
    names = [path.relative_to(folder).as_posix() for path in files_in(folder)]
    _check_content(f"model_path {str(folder)!r}", names, is_transformers=model_source == "huggingface")
    return folder


def _check_content(where: str, names: Sequence[str], *, is_transformers: bool) -> None:
    """Refuse files that cannot be a model: only texts about it, or not in the layout of transformers."""
    shown = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
    if all(_ABOUT.fullmatch(name.rpartition("/")[2]) for name in names):
        raise InvalidRequest(f"{where} holds no model, only {shown or 'nothing'}; give the folder with its weights")
    kinds = {name.rpartition("/")[2] for name in names}  # a model of several parts has a folder for each
    if not is_transformers or "MLmodel" in kinds:
        return
    if is_adapter(kinds):
        raise InvalidRequest(f"{where} {ADAPTER}")
    if "config.json" not in kinds:
        raise InvalidRequest(
            f"{where} has no config.json (it has {shown}); give what save_pretrained wrote, or register a folder with "
            "source local for an engine of your own"
        )
    if not any(name.endswith(_WEIGHTS) for name in names):
        raise InvalidRequest(
            f"{where} has no weights (it has {shown}); a model has files that end in {', '.join(_WEIGHTS)}"
        )


def is_adapter(names: Collection[str]) -> bool:
    """Return whether files of these names are a PEFT adapter, without the model that it adapts."""
    weights = {name for name in names if name.endswith(_WEIGHTS)}
    return "adapter_config.json" in names and all(name.startswith("adapter_") for name in weights)
