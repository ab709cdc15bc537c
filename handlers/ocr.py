"""ocr: takes an image, returns the text in it, line by line."""

from __future__ import annotations

from typing import Any

from handlers.base import MediaHandler, notes, optional_text, with_metadata
from handlers.decoding.images import read_image
from handlers.options.options import options_of


class OcrHandler(MediaHandler):
    """Takes `image`, and `prompt` for image-text-to-text models that need one."""

    task = "ocr"
    media_fields = ("image",)
    data_fields = ("image", "prompt")
    options = options_of("ocr")

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return `image` (PIL, RGB, upright), and `prompt` where it was given."""
        self.validate_input(data, ["image"])
        image = read_image(data["image"], field="data.image", limits=self.limits)
        return {"image": image, **notes(truncated=image.info.get("truncated")), **optional_text(data, "prompt")}

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return text, lines [{text, box [x0, y0, x1, y1] in pixels, score 0..1}] in reading order, metadata.

        `lines` is empty where the model does not separate lines.
        """
        return with_metadata({"text": result["text"], "lines": result.get("lines", [])}, result)
