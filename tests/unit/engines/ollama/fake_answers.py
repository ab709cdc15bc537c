"""What the fake server says to a prompt or an image, and how it is put into words of Ollama's API."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from aiohttp import web
from PIL import Image


class Answer:
    """What the fake says to a prompt: its words back, or what it sees, or JSON; as options bound it."""

    def __init__(self, body: dict[str, Any], prompt: str, images: Sequence[str], context: int) -> None:
        options = body.get("options", {})
        is_too_long = len(prompt.split()) > context
        prompt = " ".join(prompt.split()[-context:]) if is_too_long else prompt
        text = f"You said: {prompt}"
        if body.get("format"):
            text = '{"answer": 42}'
        elif images:
            text = "I see " + " and ".join(map(_seen, images))
        stops = [text.index(stop) for stop in options.get("stop", ()) if stop in text]
        tokens = re.findall(r"\s*\S+", text[: min(stops, default=len(text))])
        most = options.get("num_predict", -1)
        is_cut = 0 <= most < len(tokens)
        # A context that the prompt fills has no room for an answer, and the real server says nothing of it.
        self.tokens = [] if is_too_long else tokens[:most] if is_cut else tokens
        self.thinking = ("Hmm, ", "an echo.") if body.get("think") else ()
        counts = {
            "total_duration": 4_000_000_000,
            "load_duration": 1_000_000_000,
            "prompt_eval_count": len(prompt.split()),
            "prompt_eval_duration": 500_000_000,
            "eval_count": len(self.tokens),
            "eval_duration": 2_000_000_000,
        }
        self.end = {
            "done": True,
            "done_reason": "length" if is_cut else "stop",
            **{name: count for name, count in counts.items() if count},  # as Go's omitempty
        }


def _seen(encoded: str) -> str:
    """Return colour and size of an image's first pixel, so that a test sees which image arrived."""
    try:
        image = Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))
    except (binascii.Error, OSError) as error:
        raise web.HTTPBadRequest(text=json.dumps({"error": f"illegal base64 data: {error}"})) from error
    return f"{image.format} {image.width}x{image.height} {image.convert('RGB').getpixel((0, 0))}"
