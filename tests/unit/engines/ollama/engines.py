"""Engines that ask a fake server, and what they are asked most."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engines.config.settings import OllamaSettings
from engines.ollama.engine import OllamaEngine

GENERATE, CHAT, PULL = "/api/generate", "/api/chat", "/api/pull"
HELLO = {"inputs": "hello there"}


@contextmanager
def engine_for(url: str, **settings: Any) -> Iterator[OllamaEngine]:
    engine = OllamaEngine(OllamaSettings(**{"api_base": url, "timeout_s": 30, **settings}))
    try:
        yield engine
    finally:
        engine.close()
