"""The checks of `inferstream doctor` for MLflow and its models, transformers and Ollama."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import partial

import httpx

from engines.models.model_manager import ModelManager
from engines.models.resolved_model import ResolvedModel
from engines.registry import EngineRegistry
from handlers import model_registry
from handlers.errors import InferenceError
from streams.cli.checks import Finding
from streams.settings import Settings

_HTTP_TIMEOUT_S = 3.0

# In a separate process: a torch that crashes on import must not crash the diagnosis.
_LIBRARIES_PROBE = """
import json, os
os.nice(15)  # the other checks need the cores less, and come first
import torch, transformers
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__, "cuda": devices}))
"""


def check_mlflow(settings: Settings) -> list[Finding]:
    """Check that an MLflow server answers, and say which."""
    uri, shown = settings.mlflow.tracking_uri, settings.mlflow.shown_uri
    if "://" not in uri:
        return []  # the check of models says what is wrong with it
    if not uri.startswith(("http://", "https://")):
        return [Finding("mlflow", "ok", f"{shown} is used without a server")]
    try:
        answer = httpx.get(f"{uri.rstrip('/')}/version", timeout=_HTTP_TIMEOUT_S).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        cure = "start one with `inferstream up`, or correct mlflow.tracking_uri"
        reason = f"no MLflow answers at {shown}: {type(error).__name__}: {error}"
        return [Finding("mlflow", "error", reason, cure)]
    return [Finding("mlflow", "ok", f"MLflow {answer.text.strip()[:20]} answers at {shown}")]


def check_models(settings: Settings, manager: ModelManager, engines: set[str]) -> list[Finding]:
    """Check that the tags of registered models are valid, and that worker.warm names registered models.

    Adds the engines that the models name to `engines`.
    """
    try:
        models = manager.list_models()
    except ModuleNotFoundError as error:
        cure = "pip install 'inferstream[registry]'"
        return [Finding("models", "error", f"{error.name} is not installed", cure)]
    except InferenceError as error:
        return [Finding.of_error("models", error.message)]
    names = ", ".join(model.name for model in models[:5]) + (", …" if len(models) > 5 else "")
    findings = [Finding("models", "ok", f"{len(models)} registered{': ' if names else ''}{names}")]
    findings += check_tags(models, tasks=model_registry.tasks(), engines=EngineRegistry(settings).names())
    engines.update(model.engine for model in models if model.engine)
    for name in settings.worker.warm:
        try:
            manager.resolve(name)
        except InferenceError as error:
            cure = "register it, or correct worker.warm"
            findings.append(Finding("models", "error", f"worker.warm: {error.message}", cure))
    return findings


def check_tags(models: Iterable[ResolvedModel], *, tasks: Iterable[str], engines: Iterable[str]) -> Iterator[Finding]:
    """Yield a warning for each model whose tags are missing, unknown or contradictory."""
    warning = partial(Finding, "models", "warning")
    tasks, engines = sorted(tasks), sorted(engines)
    untagged: dict[str, list[str]] = {"task": [], "engine": []}
    for model in models:
        engine = (model.engine,) if model.engine else ()
        for tag, values, known in (("task", model.tasks, tasks), ("engine", engine, engines)):
            if not values:
                untagged[tag].append(model.key)
            for value in sorted(set(values) - set(known)):
                yield warning(
                    f"{model.key} has tag {tag}={model.tags[tag]}, where nothing here serves {value} "
                    f"(known: {', '.join(known)})",
                    f"register it again with --{tag}, or name the module that adds {value} in worker.plugins",
                )
        is_by_ollama = model.source.startswith("ollama:")
        if model.engine and is_by_ollama != (model.engine == "ollama"):
            yield warning(
                f"{model.key} has tag engine={model.engine}, but its source is {model.source}",
                f"register it again with --engine {'ollama' if is_by_ollama else 'transformers'}",
            )
    for tag, keys in untagged.items():
        if keys:
            yield warning(
                f"without tag {tag}, so that a request with a wrong {tag} fails late: {', '.join(keys)}",
                f"register them again with --{tag}",
            )


def check_transformers(settings: Settings, *, timeout_s: float) -> list[Finding]:
    """Check that torch and transformers can be imported and support the device in the settings."""
    name, device = "transformers", settings.transformers.device
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LIBRARIES_PROBE],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        cure = "try again when this machine is less busy"
        return [Finding(name, "warning", f"torch and transformers were not imported in {timeout_s:g} s", cure)]
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return [Finding(name, "error", f"cannot be imported: {reason}", "pip install 'inferstream[torch]'")]
    has = json.loads(done.stdout.strip().splitlines()[-1])
    versions = f"transformers {has['transformers']}, torch {has['torch']}"
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= len(has["cuda"]):
        cure = "set transformers.device=auto, or install a torch and a driver for CUDA"
        reason = f"{versions}: transformers.device={device}, but torch sees {len(has['cuda'])} CUDA devices"
        return [Finding(name, "error", reason, cure)]
    on = ", ".join(has["cuda"]) if has["cuda"] and device != "cpu" else "the CPU"
    return [Finding(name, "ok", f"{versions}, on {on}")]


def check_ollama(settings: Settings) -> list[Finding]:
    """Check that the Ollama server answers."""
    base = settings.ollama.api_base.rstrip("/")
    try:
        version = httpx.get(f"{base}/api/version", timeout=_HTTP_TIMEOUT_S).raise_for_status().json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        cure = "start `ollama serve`, or correct ollama.api_base"
        reason = f"no Ollama answers at {base}: {type(error).__name__}: {error}"
        return [Finding("ollama", "error", reason, cure)]
    return [Finding("ollama", "ok", f"Ollama {version.get('version', '')} answers at {base}")]
