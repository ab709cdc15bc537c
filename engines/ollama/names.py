"""Names of models as Ollama writes them: [host/][namespace/]model[:tag]."""

from __future__ import annotations

import re

_HOST = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"
_NAMESPACE = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
# Source: https://github.com/ollama/ollama/blob/main/types/model/name.go, isValidPart and ParseNameBare.
_NAME = re.compile(rf"(?:https?://)?(?:(?:{_HOST}/)?{_NAMESPACE}/)?{_PART}(?::{_PART})?")


def is_valid_name(name: str) -> bool:
    """Return whether Ollama takes `name` for the name of a model, which need not exist."""
    return _NAME.fullmatch(name) is not None


def short_name(name: str) -> str:
    """Return the shortest of the names that Ollama takes for one: without what it fills in by itself.

    Source: https://github.com/ollama/ollama/blob/main/types/model/name.go, DefaultName.
    """
    return name.removeprefix("registry.ollama.ai/").removeprefix("library/").removesuffix(":latest")
