"""What a server that is attacked is asked, and what must be true of it after each attack."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streams.messages import decode_result
from tests.contract import samples
from tests.contract.bench import assert_readable
from tests.integration.test_serve import ServeProcess

log = logging.getLogger(__name__)

MOST_GROWTH = 1_500_000_000
"""Bytes that the server may take beyond what it took with all its models loaded."""

_PATIENCE_S = 600.0
"""How long a plain request may take on a busy machine."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request that a model answers; the file goes into `medium_field`, where it takes one."""

    task: str
    model: str
    medium: str
    medium_field: str
    good: Callable[[], bytes]
    data: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def request(self, content: bytes | None = None, **options: Any) -> dict[str, Any]:
        """Return the request about `content`, else about a good file."""
        data = dict(self.data)
        if self.medium_field:
            sent = base64.b64encode(self.good() if content is None else content).decode()
            data[self.medium_field] = f"data:application/octet-stream;base64,{sent}"
        usual = {name: value for name, value in self.options.items() if "max_length" not in options}
        return {
            "task": self.task,
            "engine": "transformers",
            "model_name": self.model,
            "data": data,
            "options": {**usual, **options},
        }


_FEW = {"max_new_tokens": 8}
_ASKED = {"prompt": "Describe the image."}
QUESTIONS = (
    Question("text-generation", "smollm2-135m-instruct", "", "", bytes, {"inputs": "Count to three."}, _FEW),
    Question("asr", "whisper-tiny.en", "sound", "audio", samples.rising_tone),
    Question("audio-classification", "hostile-audio", "sound", "audio", samples.rising_tone),
    Question("ocr", "pp-ocrv5-mobile", "image", "image", samples.sign),
    Question("vlm", "hostile-vlm", "image", "image", samples.drawing, _ASKED, _FEW),
    Question("video-analysis", "hostile-video", "video", "video", samples.square_to_the_left),
    Question("video-analysis", "hostile-vlm", "video", "video", samples.drawing_on_video, _ASKED, _FEW),
    Question("document-analysis", "pp-ocrv5-mobile", "document", "document", samples.letter),
    Question(
        "document-analysis",
        "hostile-vlm",
        "document",
        "document",
        samples.drawing,
        {"question": "What color is the shape?"},
        _FEW,
    ),
)


class Victim:
    """A running server, its process and its memory."""

    def __init__(self, server: ServeProcess) -> None:
        self.server = server
        self._at_start = 0

    def warm(self) -> None:
        """Have every model loaded, and note the memory that this takes."""
        for question in QUESTIONS:
            self.ask_plain(question, within_s=_PATIENCE_S)
        self._at_start = self.resident_bytes("VmRSS")
        log.info("the server takes %.0f MB", self._at_start / 1e6)

    def ask(self, request: dict[str, Any], what: str) -> str:
        """Return the code of the one clear outcome, "ok" where it is an answer."""
        response = self.server.post(request)
        result = decode_result(response.content)
        if result.error is None:
            assert (response.status_code, result.success) == (200, True), what
            return "ok"
        assert response.status_code >= 400, what
        assert_readable(result.error.code, result.error.message)
        return result.error.code

    def ask_plain(self, question: Question, *, within_s: float) -> None:
        """Ask what a good client asks. It may take longer where that takes as long again: the machine is busy then."""
        took = self._timed(question)
        if took >= within_s:
            again = self._timed(question)
            assert took < 2 * again, f"{question.task} took {took:.1f} s, and then {again:.1f} s"

    def _timed(self, question: Question) -> float:
        started = time.monotonic()
        outcome = "DEADLINE_EXCEEDED"
        while outcome == "DEADLINE_EXCEEDED" and time.monotonic() - started < _PATIENCE_S:
            outcome = self.ask(question.request(), f"the plain request of {question.task}")
        assert outcome == "ok", (question.task, outcome)
        return time.monotonic() - started

    def check_alive(self) -> None:
        """Check that it is the same process, which has never taken too much memory."""
        assert self.server.process.poll() is None, self.server.log[-4000:]
        grown = self.resident_bytes("VmHWM") - self._at_start
        assert grown < MOST_GROWTH, f"{self._at_start / 1e6:.0f} MB grew by {grown / 1e6:.0f} MB"

    def resident_bytes(self, kind: str) -> int:
        """Return the memory it takes now ("VmRSS") or took at most ("VmHWM")."""
        lines = Path(f"/proc/{self.server.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))
