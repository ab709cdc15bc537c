"""Settings of what runs models: MLflow, Ollama, transformers and the model cache."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from handlers.options.spec import Bounds
from handlers.settings import LimitSettings, MediaSettings, Section, UserPath

ENV_PREFIX = "INFERSTREAM_"

THREADS_ELSEWHERE = 64
"""Most threads that a request may ask of an Ollama server on another machine, whose cores are not known here."""


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def user_cache_dir() -> Path:
    """Return this user's cache folder for inferstream (XDG_CACHE_HOME is honoured)."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "inferstream"


class MlflowSettings(Section):
    """The model registry."""

    tracking_uri: str = Field(default="http://localhost:5000", min_length=1)
    """Address of the MLflow server."""
    username: str | None = None
    """User name, where the server asks for one."""
    password: SecretStr | None = None
    """Password, where the server asks for one."""
    timeout_s: float = Field(default=10.0, gt=0, le=120)
    """Longest wait for one answer of the server."""
    max_retries: int = Field(default=2, ge=0, le=10)
    """Further tries after a failed call."""
    alias_poll_s: float = Field(default=5.0, gt=0, le=86_400)
    """How often aliases and versions are looked up again."""
    default_alias: str = "champion"
    """Alias a plain name resolves to, where it exists."""
    physical_roots: tuple[UserPath, ...] = ()
    """Folders under which a model's physical_path tag is trusted; empty trusts none."""

    @property
    def shown_uri(self) -> str:
        """The server's address for messages: without user and password."""
        scheme, separator, rest = self.tracking_uri.rpartition("://")
        return f"{scheme}{separator}{rest.rpartition('@')[2]}"


class CacheSettings(Section):
    """Models held in memory and model files held on disk."""

    max_models: int | None = Field(default=None, gt=0)
    """Most models in memory at once; default: as many as the bytes allow. Models on a server, as of Ollama, and
    further tasks of a model do not count."""
    max_bytes: int | None = Field(default=None, gt=0)
    """Most bytes of models in RAM; a model that alone takes more is refused. Default: half of the memory that
    the process may use."""
    max_gpu_bytes: int | None = Field(default=None, gt=0)
    """Most bytes of models on each GPU, as for RAM; default: 90 % of its memory."""
    idle_unload_s: float | None = Field(default=1800.0, gt=0, le=86_400 * 7)
    """Seconds without a request after which a model is unloaded, unless it is one of worker.warm; null keeps it until
    its room is needed."""
    directory: UserPath = Field(
        default_factory=lambda: user_cache_dir() / "files", examples=["~/.cache/inferstream/files"]
    )
    """Where downloaded model files are kept."""
    directory_max_bytes: int = Field(default=50 * 1024**3, gt=0)
    """Most bytes of model files on disk."""


class TransformersSettings(Section):
    """The transformers engine."""

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """auto, cpu, cuda or cuda:N; auto takes CUDA where there is one."""
    torch_dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the weights; auto is bf16 on CUDA and fp32 on the CPU."""
    threads: int | None = Field(default=None, gt=0)
    """Threads of torch; default: cores - 1, at least 1."""
    batching: Literal["in-flight", "micro"] = "in-flight"
    """How text is generated: in-flight, requests join the running batch; micro, in small batches."""
    max_rows: int | None = Field(default=None, gt=0, le=4096)
    """Most texts of one model that run together; default: 32, on CUDA 256."""
    kv_cache_bytes: int | None = Field(default=None, gt=0)
    """Most bytes of attention cache for the texts of one model; beyond it requests wait. Default: 1 GiB, on CUDA
    5 % of the GPU's memory where that is more."""
    prefill_tokens: int | None = Field(default=None, gt=0)
    """Most tokens of new prompts between two steps of the running texts; default: 256, on CUDA 4096."""
    batch_audio_s: float = Field(default=480.0, gt=0)
    """Most seconds of sound in a batch: its number of recordings times the longest, at least 30 s each in asr."""
    batch_pixels: int = Field(default=64_000_000, gt=0)
    """Most pixels in a batch of ocr: its number of images times the largest."""
    batch_frames: int = Field(default=256, gt=0)
    """Most frames in a batch of videos: its number of videos times the longest."""
    batch_pages: int = Field(default=32, gt=0)
    """Most pages in a batch of documents: its number of documents times the longest."""
    trust_remote_code: bool = False
    """Run Python code that a model ships. Dangerous."""
    allow_pickle: bool = False
    """Load weights that are not safetensors. Dangerous."""


class OllamaSettings(Section):
    """The Ollama engine."""

    api_base: str = Field(default="http://localhost:11434", pattern=r"^https?://")
    """Address of the Ollama server."""
    timeout_s: float = Field(default=300.0, gt=0, le=86_400, validation_alias=AliasChoices("timeout_s", "timeout"))
    """Longest time for one answer; a busy server uses it up before the first token. May be written `timeout` as
    well."""
    max_concurrent: int = Field(default=4, gt=0)
    """Most requests of this process at the server; OLLAMA_NUM_PARALLEL of them run there at once."""
    auto_pull: bool = True
    """Pull a missing model once."""
    max_threads: int | None = Field(default=None, gt=0)
    """Largest num_thread of a request; default: this machine's cores where the server is on it, else 64."""
    max_batch: int = Field(default=2048, gt=0)
    """Largest num_batch and draft_num_predict of a request."""
    max_context: int | None = Field(default=None, gt=0)
    """Largest num_ctx, num_keep and repeat_last_n of a request; default: the model's own context, or 131072 where the
    server does not report it."""
    shift: bool | None = None
    """Whether an answer that fills the context goes on without its oldest tokens; a model's tag ollama_shift
    overrides it. Unset, the server decides. Not an option of requests: a change reloads the model."""

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine, by its address."""
        host = (urlsplit(self.api_base).hostname or "").lower()
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def bounds(self) -> Bounds:
        """The largest value of each option that a setting of this section bounds."""
        threads = self.max_threads or (available_cores() if self.is_local else THREADS_ELSEWHERE)
        bounds = {"ollama.max_threads": threads, "ollama.max_batch": self.max_batch}
        return bounds if self.max_context is None else {**bounds, "ollama.max_context": self.max_context}


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was written, and where: "file PATH:LINE", "env NAME", "command line" or "Python"."""

    value: Any
    origin: str


def _as_given(value: Any) -> Given:
    return value if isinstance(value, Given) else Given(value, "Python")


class OwnEngines(Section):
    """Engines of your own, by name, each with the settings it declares, as in trigrams: {smoothing: 0.5}."""

    model_config = ConfigDict(extra="allow")

    # Kept as they were written: only the engine knows what they mean, and it may be a plugin's.
    __pydantic_extra__: dict[str, dict[str, Annotated[Given, BeforeValidator(_as_given)]]] = Field(init=False)

    def names(self) -> list[str]:
        """Return the engines that have settings."""
        return [name for name, given in self.__pydantic_extra__.items() if given]

    def of(self, engine: str) -> Mapping[str, Given]:
        """Return the settings of that engine, by name."""
        return self.__pydantic_extra__.get(engine, {})


class EngineSettings(BaseModel):
    """The part of the tree that engines need; frozen, so any thread may share it.

    Built directly it holds the defaults and what it is given; `engines.configuration.load` reads files and
    the environment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    foreign_sections: ClassVar[frozenset[str]] = frozenset({"kafka", "s3", "worker", "http", "logging"})
    """Sections of the same files and environment that belong to streams; ignored here."""

    mlflow: MlflowSettings = Field(default_factory=MlflowSettings)
    ollama: OllamaSettings = Field(default_factory=OllamaSettings)
    transformers: TransformersSettings = Field(default_factory=TransformersSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    media: MediaSettings = Field(default_factory=MediaSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    engines: OwnEngines = Field(default_factory=OwnEngines, repr=False)
