"""Turns what goes wrong between us and Ollama into the errors that requests end with.

| Ollama says | we say |
|---|---|
| nothing: refused, no route, cut off, silent too long | ENGINE_UNAVAILABLE |
| a line that is not the expected JSON, a stream without its end | ENGINE_UNAVAILABLE |
| 404 about a model | MODEL_LOAD_FAILED (ModelMissing), before which a pull may help |
| 400 about the model's name | MODEL_LOAD_FAILED |
| 400 about a prompt that is longer than the context | INVALID_INPUT, with what to do |
| 400 about think, keep_alive, format or a named option | INVALID_OPTION |
| 400 otherwise (prompt too long, no such capability), and 413 | INVALID_INPUT |
| 429, 503 | BUSY |
| 500, or an error line in a stream: no memory | OUT_OF_MEMORY |
| the same: the type of an option, or the schema of format | INVALID_OPTION |
| the same: a text that reads as the place of an image | INVALID_INPUT |
| the same: the model cannot be loaded | MODEL_LOAD_FAILED |
| the same: its runner died or does not answer | ENGINE_UNAVAILABLE |
| the same: anything else | INFERENCE_FAILED |
| an error line in a pull: no such model, or not for us | MODEL_LOAD_FAILED |
| an error line in a pull: anything else | ENGINE_UNAVAILABLE |
| any other status (401, 403, 404 about no model, 499, 502, 504, a redirect) | ENGINE_UNAVAILABLE; for a cloud model, with what it needs |

Source: https://github.com/ollama/ollama/blob/main/server/routes.go, and sched.go beside it.
"""  # noqa: E501 - rows of a table

from __future__ import annotations

import re

import httpx

from engines.ollama.wire import BadLine
from handlers.errors import (
    Busy,
    EngineUnavailable,
    InferenceError,
    InferenceFailed,
    InvalidInput,
    InvalidOption,
    ModelLoadFailed,
    OutOfMemory,
)

_LONGEST_QUOTE = 300
_NAME_CURE = "correct the model's tag ollama_model_name"

_NAMED_OPTION = re.compile(r'option "(\w+)"')
_REFUSED_OPTIONS = {
    "think": re.compile(r"\bthink", re.IGNORECASE),
    "keep_alive": re.compile(r"keep_alive|duration", re.IGNORECASE),
    "format": re.compile(r"invalid format|json schema", re.IGNORECASE),
}
"""Options that Ollama refuses without quoting their name."""
_NO_MEMORY = re.compile(r"out of memory|more system memory|cudaMalloc failed", re.IGNORECASE)
_UNLOADABLE = re.compile(
    r"unable to load model|error loading model|unknown model architecture|unsupported", re.IGNORECASE
)
_DEAD_RUNNER = re.compile(r"\brunner\b|\bconnection\b|\bEOF\b|timed out|cancell?ed", re.IGNORECASE)
_BAD_NAME = re.compile(r"invalid model name", re.IGNORECASE)
_TOO_LONG = re.compile(
    r"exceeds? (the |maximum |available )?context|context (length|size|window)", re.IGNORECASE
)
_BAD_IMAGE_MARK = re.compile(r"invalid image index", re.IGNORECASE)
_CLOUD_MODEL = re.compile(r"[:-]cloud$")
"""A model that the server does not run itself but forwards to ollama.com."""
_UNPULLABLE = re.compile(r"file does not exist|invalid model|newer version|\b4(00|01|03|04|12)\b")


class ModelMissing(ModelLoadFailed):
    """The server does not hold the model."""


class Refused(Exception):
    """Raised when the server refuses: a status with a reason, or (200) an error line in a stream."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(status, said)
        self.status = status
        self.said = " ".join(said.split())[:_LONGEST_QUOTE] or "no reason given"


class Failures:
    """Makes the errors about one server; its address is shown without its password."""

    def __init__(self, api_base: str) -> None:
        self.server = str(httpx.URL(api_base).copy_with(username=None, password=None)).rstrip("/")

    def missing(self, model: str) -> ModelMissing:
        """Return the error for a model that the server does not hold."""
        return ModelMissing(
            f"the Ollama server at {self.server} has no model {model}; run `ollama pull {model}` on it, or set "
            "ollama.auto_pull"
        )

    def of_refusal(self, refused: Refused, model: str | None) -> InferenceError:
        """Return the error for a refused request; `model` is the one it was about, if any."""
        status, said = refused.status, refused.said
        about = f"Ollama at {self.server}" + (f", asked for model {model}" if model else "")
        if status in (200, 500):
            return self._of_failure(f"{about}, failed: {said}", said)
        if status == 404 and model:
            return self.missing(model)
        if status in (429, 503):
            return Busy(f"{about}, is busy: {said}; try again later, or lower ollama.max_concurrent")
        if status == 400 and _BAD_NAME.search(said):
            return ModelLoadFailed(f"{about}, refused: {said}; {_NAME_CURE}")
        if status == 400 and _TOO_LONG.search(said):
            return InvalidInput(
                f"{about}, refused: {said}; shorten the prompt, raise options.num_ctx, or give options.truncate true "
                "to have its oldest part cut off"
            )
        if status == 400:
            return _refused_option(said, _REFUSED_OPTIONS) or InvalidInput(f"{about}, refused: {said}")
        if status == 413:
            return InvalidInput(f"{about}, takes no request that large; send smaller or fewer images")
        if model and _CLOUD_MODEL.search(model):
            return EngineUnavailable(
                f"{about}, said {status}: {said}; this model runs on ollama.com: the server needs access to it, and "
                "a sign-in by `ollama signin`"
            )
        if status in (502, 504):
            return EngineUnavailable(
                f"{about}, said {status}: {said}; a proxy in front of it cannot reach it"
            )
        return EngineUnavailable(
            f"{about}, said {status}: {said}; check that ollama.api_base is the address of an Ollama server"
        )

    def of_pull(self, refused: Refused, model: str) -> InferenceError:
        """Return the error for a pull that failed."""
        if refused.status not in (200, 400, 500):
            return self.of_refusal(refused, None)
        about = f"Ollama at {self.server} could not pull model {model}: {refused.said}"
        if _UNPULLABLE.search(refused.said):
            return ModelLoadFailed(f"{about}; {_NAME_CURE}")
        return EngineUnavailable(about)

    def of_transport(
        self, error: httpx.HTTPError | TimeoutError | BadLine, within_s: float
    ) -> InferenceError:
        """Return the error for a server that is away, silent for too long, or does not speak HTTP."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return EngineUnavailable(
                f"no Ollama server answers at {self.server}: {str(error) or type(error).__name__}; start it with "
                "`ollama serve`, or correct ollama.api_base"
            )
        if isinstance(error, httpx.TimeoutException | TimeoutError):
            return EngineUnavailable(
                f"Ollama at {self.server} did not answer within {within_s:g} s; it may be busy: try again, ask "
                "for fewer tokens, or raise ollama.timeout_s"
            )
        if isinstance(error, BadLine):
            return EngineUnavailable(f"{self.server} does not answer as Ollama does: it sent {error}")
        return EngineUnavailable(
            f"the connection to Ollama at {self.server} broke: {type(error).__name__}: {error}"
        )

    def of_cut(self, model: str) -> InferenceError:
        """Return the error for a stream that ended before its last line."""
        return EngineUnavailable(
            f"Ollama at {self.server} ended its answer for model {model} without `done`; what came is not whole"
        )

    def _of_failure(self, message: str, said: str) -> InferenceError:
        if _NO_MEMORY.search(said):
            return OutOfMemory(message)
        refused = _refused_option(said, {"format": _REFUSED_OPTIONS["format"]})
        if refused is not None:
            return refused
        if _BAD_IMAGE_MARK.search(said):
            return InvalidInput(f"{message}; leave texts like [img-0] out of the prompt of a model that sees")
        if _UNLOADABLE.search(said):
            return ModelLoadFailed(message)
        if _DEAD_RUNNER.search(said):
            return EngineUnavailable(message)
        return InferenceFailed(message)


def _refused_option(said: str, subjects: dict[str, re.Pattern[str]]) -> InvalidOption | None:
    named = _NAMED_OPTION.search(said)
    option = (
        named[1] if named else next((name for name, words in subjects.items() if words.search(said)), None)
    )
    return None if option is None else InvalidOption(f"options.{option} is refused by Ollama: {said}")
