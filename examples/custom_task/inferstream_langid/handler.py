"""language-identification: a text in, the language it is written in out."""

from __future__ import annotations

from typing import Any, ClassVar

from handlers import BaseModelHandler
from handlers.errors import InvalidInput
from handlers.options.options import OptionSpec


class LanguageHandler(BaseModelHandler):
    """Takes `text`, a string with at least one letter."""

    data_fields = ("text",)
    options: ClassVar = {"top_k": OptionSpec("top_k", "integer", "How many languages to return.", 1, 100)}

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return {"text": str}."""
        self.validate_input(data, ["text"])
        text = data["text"]
        if not isinstance(text, str) or not any(map(str.isalpha, text)):
            raise InvalidInput(f"data.text is {text!r:.80}; it must be a string with some letters in it")
        return {"text": text}

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return language, and languages [{language, probability}], likeliest first."""
        ranked = [{"language": name, "probability": share} for name, share in result["probabilities"].items()]
        return {
            "language": ranked[0]["language"],
            "languages": ranked[: options.get("top_k", 3)],
            "metadata": {"trigrams": result["trigrams"]},
        }
