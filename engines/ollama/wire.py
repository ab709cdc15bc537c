"""The messages of Ollama's server as types: one JSON object per line of a stream, or one as a whole answer.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md and api/types.go beside it. Unused fields are left out;
fields that the server omits are empty or 0, which is what it means by that.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

LONGEST_LINE_BYTES = 32 * 1024**2
"""Far longer than any line of a real server; an endless line would fill the memory."""


class Message(msgspec.Struct, frozen=True):
    """The part of an answer that a chunk of /api/chat carries."""

    content: str | None = None
    thinking: str | None = None


class AnswerChunk(msgspec.Struct, frozen=True):
    """A line of /api/generate (its text in `response`) or /api/chat (in `message`); durations in ns."""

    error: str | None = None
    response: str | None = None
    thinking: str | None = None
    message: Message | None = None
    done: bool = False
    done_reason: str | None = None
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class PullChunk(msgspec.Struct, frozen=True):
    """A line of /api/pull; a layer's progress has its digest, and bytes in `total` and `completed`."""

    error: str | None = None
    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0


class Shown(msgspec.Struct, frozen=True):
    """The answer of /api/show about a model."""

    parameters: str = ""
    """The options its Modelfile sets, one a line: name, spaces, value."""
    capabilities: tuple[str, ...] | None = None
    """Such as completion, vision, thinking, tools; None from a server too old to say."""
    model_info: dict[str, Any] = {}
    """From the model's file: "<architecture>.context_length" among others."""

    @property
    def context_length(self) -> int | None:
        """The longest context of the model, in tokens; None where its file does not say."""
        lengths = [value for name, value in self.model_info.items() if name.endswith(".context_length")]
        return next((length for length in lengths if type(length) is int and length > 0), None)

    def parameter(self, name: str) -> str | None:
        """Return the first value its Modelfile gives `name`, as text."""
        for line in self.parameters.splitlines():
            key, _, value = line.strip().partition(" ")
            if key == name:
                return value.strip().strip('"')
        return None


class ListedModel(msgspec.Struct, frozen=True):
    """One model of /api/tags or /api/ps."""

    name: str


class ModelList(msgspec.Struct, frozen=True):
    """What /api/tags (on disk) and /api/ps (in memory) answer."""

    models: tuple[ListedModel, ...] | None = None

    @property
    def names(self) -> list[str]:
        return [model.name for model in self.models or ()]


class Version(msgspec.Struct, frozen=True):
    """What /api/version answers."""

    version: str


class ServerError(msgspec.Struct, frozen=True):
    """The body of a refusal."""

    error: str


class BadLine(Exception):
    """Raised when a line is not the expected JSON object; the message shows its beginning."""


T = TypeVar("T")


class JsonLines(Generic[T]):
    """Parses the objects of a stream from its bytes, however they are split; empty lines are skipped."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(kind)
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[T]:
        """Return the objects whose lines end in `chunk`, in order; a last line without an end takes another "\\n".

        Raises:
            BadLine: permanent; a line is not such an object, or has no end.
        """
        self._rest += chunk
        if b"\n" not in chunk:
            if len(self._rest) > LONGEST_LINE_BYTES:
                raise BadLine(f"a line of more than {LONGEST_LINE_BYTES} bytes")
            return []
        *lines, self._rest = self._rest.split(b"\n")
        return [self._decoded(line) for line in lines if line.strip()]

    def _decoded(self, line: bytes | bytearray) -> T:
        try:
            return self._decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadLine(f"{bytes(line[:80])!r}{'…' if len(line) > 80 else ''} ({error})") from error
