"""Gathers the chunks of one answer into the raw result."""

from __future__ import annotations

from typing import Any

import structlog

from engines.base import Emit
from engines.ollama.wire import AnswerChunk

log = structlog.get_logger(__name__)

_NS_PER_S = 1e9


class Answer:
    """One answer in the making; `emit` hears each piece of its text, not of its thinking. For one thread."""

    def __init__(self, emit: Emit | None = None) -> None:
        self._emit = emit
        self._text: list[str] = []
        self._thinking: list[str] = []

    def hear(self, chunk: AnswerChunk) -> None:
        """Take the next chunk."""
        text, thinking = chunk.response, chunk.thinking
        if chunk.message is not None:
            text, thinking = chunk.message.content, chunk.message.thinking
        if thinking:
            self._thinking.append(thinking)
        if text:
            self._text.append(text)
            self._tell(text)

    def result(self, last: AnswerChunk) -> dict[str, Any]:
        """Return generated_text, prompt_tokens, completion_tokens, finish_reason, metadata and, where the
        model thought, thinking.

        `finish_reason` is Ollama's done_reason (stop, length), or "unknown" where it gives none; metadata has
        the server's own times: load_s, prompt_eval_s, eval_s, total_s.
        """
        return {
            "generated_text": "".join(self._text),
            **({"thinking": "".join(self._thinking)} if self._thinking else {}),
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
        except Exception:
            # Whoever listens along gets no more, but the answer itself is none the worse for it.
            log.exception("emit_failed")
            self._emit = None
