"""ocr: an image in, the text in it out, line by line."""

from __future__ import annotations

from typing import Any

from handlers.base import BaseModelHandler
from handlers.decoding.images import read_image
from handlers.errors import InvalidInput
from handlers.options.options import options_of
from handlers.options.spec import shown
from handlers.settings import MediaSettings


class OcrHandler(BaseModelHandler):
    """Takes `image`, and `prompt` where the model is an image-text-to-text model that needs one of its own."""

    task = "ocr"
    media_fields = ("image",)
    options = options_of("ocr")

    def __init__(self, limits: MediaSettings | None = None) -> None:
        self.limits = limits or MediaSettings()

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return `image` (PIL, RGB, upright), and `prompt` where it was given."""
        self.validate_input(data, ["image"])
        image = read_image(
            data["image"],
            field="data.image",
            max_pixels=self.limits.max_image_pixels,
            children=self.limits.children,
        )
        prompt = data.get("prompt")
        if prompt is None:
            return {"image": image}
        if not isinstance(prompt, str) or not prompt.strip():
            raise InvalidInput(f"data.prompt is {shown(prompt)}; it must be a text, or left out")
        return {"image": image, "prompt": prompt}

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return text, lines [{text, box [x0, y0, x1, y1] in pixels, score 0..1}] in reading order, metadata.

        A model that tells no lines apart leaves `lines` empty.
        """
        known = ("text", "lines", "metadata")
        metadata = {name: value for name, value in result.items() if name not in known}
        return {
            "text": result["text"],
            "lines": result.get("lines", []),
            "metadata": {**metadata, **result.get("metadata", {})},
        }
