"""Turns what goes wrong between us and Ollama into the errors that requests end with.

A server that is away or silent for too long, a line that is not the expected JSON, and a stream without its end are
ENGINE_UNAVAILABLE. `_RULES` lists what the server refuses.

Source: https://github.com/ollama/ollama/blob/main/server/routes.go, and sched.go beside it.
"""

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

_RUN = (200, 500)
"""An error line in a stream, or the status of a run that failed."""
_OPTION = (200, 400, 500)
_FAILED = "{about}, failed: {said}"
_REFUSED = "{about}, refused: {said}"
_NOT_TAKEN = " is refused by Ollama: {said}"
_CUT = "shorten the prompt, raise options.num_ctx, or give options.truncate true to have its oldest part cut off"
_MARK = "leave texts like [img-0] out of the prompt of a model that sees"

_RULES: tuple[tuple[tuple[int, ...], str, type[InferenceError], str], ...] = (
    ((429, 503), "", Busy, "{about}, is busy: {said}; try again later, or lower ollama.max_concurrent"),
    ((413,), "", InvalidInput, "{about}, takes no request that large; send smaller or fewer images"),
    ((400,), "invalid model name", ModelLoadFailed, f"{_REFUSED}; {_NAME_CURE}"),
    ((400,), "exceeds? (the |maximum |available )?context", InvalidInput, f"{_REFUSED}; {_CUT}"),
    ((400,), "context (length|size|window)", InvalidInput, f"{_REFUSED}; {_CUT}"),
    (_RUN, "out of memory|more system memory|cudaMalloc failed", OutOfMemory, _FAILED),
    (_OPTION, r'option "(?P<option>\w+)"', InvalidOption, "options.{option}" + _NOT_TAKEN),
    ((400,), r"\bthink", InvalidOption, "options.think" + _NOT_TAKEN),
    ((400,), "keep_alive|duration", InvalidOption, "options.keep_alive" + _NOT_TAKEN),
    (_OPTION, "invalid format|json schema", InvalidOption, "options.format" + _NOT_TAKEN),
    ((400,), "", InvalidInput, _REFUSED),
    (_RUN, "invalid image index", InvalidInput, f"{_FAILED}; {_MARK}"),
    (_RUN, "unable to load model|error loading model", ModelLoadFailed, _FAILED),
    (_RUN, "unknown model architecture|unsupported", ModelLoadFailed, _FAILED),
    (_RUN, r"\brunner\b|\bconnection\b|\bEOF\b|timed out|cancell?ed", EngineUnavailable, _FAILED),
    (_RUN, "", InferenceFailed, _FAILED),
)
"""Statuses, the server's words in any case, our error and its message; the first match counts."""

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
        if status == 404 and model:
            return self.missing(model)
        for statuses, words, kind, message in _RULES:
            if status in statuses and (found := re.search(words, said, re.IGNORECASE)):
                return kind(message.format(about=about, said=said, **found.groupdict()))
        if model and _CLOUD_MODEL.search(model):
            cure = "this model runs on ollama.com: the server needs access to it, and a sign-in by `ollama signin`"
        elif status in (502, 504):
            cure = "a proxy in front of it cannot reach it"
        else:
            cure = "check that ollama.api_base is the address of an Ollama server"
        return EngineUnavailable(f"{about}, said {status}: {said}; {cure}")

    def of_pull(self, refused: Refused, model: str) -> InferenceError:
        """Return the error for a pull that failed."""
        if refused.status not in (200, 400, 500):
            return self.of_refusal(refused, None)
        about = f"Ollama at {self.server} could not pull model {model}: {refused.said}"
        if _UNPULLABLE.search(refused.said):
            return ModelLoadFailed(f"{about}; {_NAME_CURE}")
        return EngineUnavailable(about)

    def of_transport(self, error: httpx.HTTPError | TimeoutError | BadLine, within_s: float) -> InferenceError:
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
        return EngineUnavailable(f"the connection to Ollama at {self.server} broke: {type(error).__name__}: {error}")

    def of_cut(self, model: str) -> InferenceError:
        """Return the error for a stream that ended before its last line."""
        return EngineUnavailable(
            f"Ollama at {self.server} ended its answer for model {model} without `done`; what came is not whole"
        )
