"""Settings of what runs models: MLflow, Ollama, transformers and the model cache."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from handlers.settings import MediaSettings, Section


def user_cache_dir() -> Path:
    """Return this user's cache folder for inferstream (XDG_CACHE_HOME is honoured)."""
    import os

    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "inferstream"


class MlflowSettings(Section):
    """The model registry."""

    tracking_uri: str = Field("http://localhost:5000", description="Address of the MLflow server.")
    username: str | None = Field(None, description="User name, where the server asks for one.")
    password: SecretStr | None = Field(None, description="Password, where the server asks for one.")
    timeout_s: float = Field(10.0, gt=0, le=120, description="Longest wait for one answer of the server.")
    max_retries: int = Field(2, ge=0, le=10, description="Further tries after a failed call.")
    alias_poll_s: float = Field(5.0, gt=0, description="How often aliases and newest versions are looked up again.")
    default_alias: str = Field("champion", description="Alias a plain name resolves to, where it exists.")
    physical_roots: tuple[Path, ...] = Field(
        (), description="Folders under which a model's physical_path tag is trusted; empty trusts none."
    )


class CacheSettings(Section):
    """Models held in memory and model files held on disk."""

    max_models: int = Field(4, gt=0, description="Most models in memory at once.")
    max_bytes: int = Field(8 * 1024**3, gt=0, description="Most bytes of models in memory.")
    directory: Path = Field(
        default_factory=lambda: user_cache_dir() / "files", description="Where downloaded model files are kept."
    )
    directory_max_bytes: int = Field(50 * 1024**3, gt=0, description="Most bytes of model files on disk.")


class TransformersSettings(Section):
    """The transformers engine."""

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N; auto takes CUDA where there is one.")
    torch_dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Number format of the weights; auto is bf16 on CUDA and fp32 on the CPU."
    )
    threads: int | None = Field(None, gt=0, description="Threads of torch; default: cores - 1, at least 1.")
    trust_remote_code: bool = Field(False, description="Run Python code that a model ships. Dangerous.")
    allow_pickle: bool = Field(False, description="Load weights that are no safetensors. Dangerous.")


class OllamaSettings(Section):
    """The Ollama engine."""

    api_base: str = Field("http://localhost:11434", description="Address of the Ollama server.")
    timeout_s: float = Field(300.0, gt=0, description="Longest wait for an answer.")
    auto_pull: bool = Field(True, description="Pull a missing model once.")
