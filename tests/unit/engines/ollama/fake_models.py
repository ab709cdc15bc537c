"""The models of the fake server: what it tells of them, and what it refuses to run on them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.unit.engines.ollama.fake_faults import Refusal

CREATED_AT = "2026-11-24T10:00:00.123456789Z"
DIGEST = "sha256:" + "0123456789abcdef" * 4

_INTEGERS = ("num_predict", "num_ctx", "top_k", "seed", "repeat_last_n")
_DURATION = re.compile(r"-?(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+")
_DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "echo",
    "families": ["echo"],
    "parameter_size": "1K",
    "quantization_level": "F32",
}


@dataclass
class FakeModel:
    """What the server tells of a model."""

    capabilities: tuple[str, ...] | None = ("completion",)
    context: int = 4096
    """In tokens, which are words here."""
    parameters: str = ""
    size: int = 1000


def listed(name: str) -> dict[str, Any]:
    """Return what every list of models says of one."""
    return {"name": name, "model": name, "digest": DIGEST, "details": _DETAILS}


def shown(name: str, model: FakeModel) -> dict[str, Any]:
    """Return what the server tells who asks about one model."""
    told: dict[str, Any] = {
        "modelfile": f"FROM {name}",
        "template": "{{ .Prompt }}",
        "details": _DETAILS,
        "model_info": {"general.architecture": "echo", "echo.context_length": model.context},
        "modified_at": CREATED_AT,
    }
    if model.parameters:
        told["parameters"] = model.parameters
    if model.capabilities is not None:
        told["capabilities"] = model.capabilities
    return told


def why_bad_name(name: str) -> Refusal | None:
    """Return why the real server looks for no model of this name."""
    return None if re.fullmatch(r"[\w./:-]+", name) else Refusal(400, "invalid model name")


def why_refused(body: Mapping[str, Any], models: Mapping[str, FakeModel]) -> Refusal | None:
    """Return why the real server, if it held `models`, would not run this request."""
    name = body.get("model", "").removesuffix(":latest")
    if name not in models:
        return Refusal(404, f"model '{name}' not found")
    if body.get("think") and "thinking" not in (models[name].capabilities or ()):
        return Refusal(400, f'"{name}" does not support thinking')
    keep = body.get("keep_alive", 0)
    if isinstance(keep, str) and not _DURATION.fullmatch(keep):
        return Refusal(400, f'time: invalid duration "{keep}"')
    for option in _INTEGERS:
        if type(body.get("options", {}).get(option, 0)) is not int:
            return Refusal(500, f'option "{option}" must be of type integer')
    said = body.get("prompt", "") + "".join(one["content"] for one in body.get("messages", ()))
    images = len(body.get("images", ())) + sum(len(one.get("images", ())) for one in body.get("messages", ()))
    if "vision" in (models[name].capabilities or ()):
        for number in re.findall(r"\[img-(\d+)\]", said):
            if int(number) >= images:
                return Refusal(500, "invalid image index: " + number)
    if body.get("truncate") is False and len(said.split()) > models[name].context:
        return Refusal(400, "the input length exceeds the context length")
    if body.get("format", "json") != "json" and not isinstance(body["format"], dict):
        return Refusal(500, 'invalid format: expected "json" or a valid JSON Schema object')
    return None
