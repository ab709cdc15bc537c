"""The ocr handler: what reaches the engine, and what a caller gets."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from handlers import model_registry
from handlers.errors import InvalidInput, MediaTooLarge
from handlers.ocr import OcrHandler
from handlers.settings import MediaSettings

HANDLER = OcrHandler()
PICTURE = Image.new("L", (60, 40), 255)


def test_a_picture_becomes_rgb_and_a_prompt_goes_along() -> None:
    inputs = HANDLER.preprocess({"image": PICTURE, "prompt": "Read."}, {})
    assert (inputs["image"].mode, inputs["image"].size, inputs["prompt"]) == ("RGB", (60, 40), "Read.")
    assert list(HANDLER.preprocess({"image": PICTURE}, {})) == ["image"]


@pytest.mark.parametrize("prompt", ["", " ", 1, ["Read."]])
def test_a_prompt_that_is_no_text_is_refused(prompt: Any) -> None:
    with pytest.raises(InvalidInput, match=r"data\.prompt is .*; it must be a text, or left out"):
        HANDLER.preprocess({"image": PICTURE, "prompt": prompt}, {})


def test_a_missing_image_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"data\.image is required for task ocr; got document"):
        HANDLER.preprocess({"document": b""}, {})


def test_a_picture_beyond_the_limit_is_refused() -> None:
    small = OcrHandler(MediaSettings(max_image_pixels=2399))
    with pytest.raises(MediaTooLarge, match="60 x 40"):
        small.preprocess({"image": PICTURE}, {})


def test_lines_are_empty_where_the_model_tells_none_apart() -> None:
    result = HANDLER.postprocess({"text": "a", "width": 60, "finish_reason": "stop"}, {})
    assert result == {"text": "a", "lines": [], "metadata": {"width": 60, "finish_reason": "stop"}}
    lines = [{"text": "a", "box": [0, 0, 1, 1], "score": 0.5}]
    assert HANDLER.postprocess({"text": "a", "lines": lines}, {})["lines"] == lines


def test_the_registry_serves_it() -> None:
    assert isinstance(model_registry.get("ocr"), OcrHandler)
