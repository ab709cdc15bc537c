"""Collects the chunks of one answer into the raw result."""

from __future__ import annotations

from typing import Any

from engines.base import Emit
from engines.ollama.wire import AnswerChunk
from handlers.logger import get_logger

log = get_logger(__name__)

_NS_PER_S = 1e9

_MOST_REPEATS = 30
"""After this many equal tokens Ollama ends an answer at the next one, without a last chunk.
Source: https://github.com/ollama/ollama/blob/main/llm/server.go, Completion: blanks around a token do not count."""


class Answer:
    """One answer under way; `emit` gets each piece of its text, not of its thinking. For one thread."""

    def __init__(self, emit: Emit | None = None) -> None:
        self._emit = emit
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._heard = 0
        self._latest = ""
        self._repeats = 0

    def hear(self, chunk: AnswerChunk) -> None:
        """Take the next chunk."""
        text, thinking = chunk.response, chunk.thinking
        if chunk.message is not None:
            text, thinking = chunk.message.content, chunk.message.thinking
        if thinking:
            self._count(thinking)
            self._thinking.append(thinking)
        if text:
            self._count(text)
            self._text.append(text)
            self._tell(text)

    @property
    def repeats_itself(self) -> bool:
        """Whether its last tokens are equal and so many that Ollama ends an answer."""
        return self._repeats >= _MOST_REPEATS

    def _count(self, token: str) -> None:
        self._heard += 1
        token = token.strip()
        self._repeats = self._repeats + 1 if token == self._latest else 0
        self._latest = token

    def result(self, last: AnswerChunk) -> dict[str, Any]:
        """Return the raw result as a dict.

        Keys: generated_text, prompt_tokens, completion_tokens, finish_reason, metadata, and thinking where the model
        thought. `finish_reason` is Ollama's done_reason (stop, length), or "unknown" where it has none; metadata has
        the server's times: load_s, prompt_eval_s, eval_s, total_s. If the server ended an answer that repeats itself,
        `last` is not done: `finish_reason` is "repetition", completion_tokens counts the tokens that came, and values
        of a last chunk (prompt_tokens, times) are missing.
        """
        answer: dict[str, Any] = {"generated_text": "".join(self._text)}
        if self._thinking:
            answer["thinking"] = "".join(self._thinking)
        if not last.done:
            repeated = {"completion_tokens": self._heard, "finish_reason": "repetition", "metadata": {}}
            return answer | repeated
        return answer | {
            "prompt_tokens": last.prompt_eval_count,
            "completion_tokens": last.eval_count,
            "finish_reason": last.done_reason or "unknown",
            "metadata": {
                "load_s": last.load_duration / _NS_PER_S,
                "prompt_eval_s": last.prompt_eval_duration / _NS_PER_S,
                "eval_s": last.eval_duration / _NS_PER_S,
                "total_s": last.total_duration / _NS_PER_S,
            },
        }

    def _tell(self, text: str) -> None:
        if self._emit is None:
            return
        try:
            self._emit(text)
        except BaseException as error:
            log.error("emit_failed", exc_info=error)
            self._emit = None
