"""One request for each task of ours, to begin with: they stand in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

_DATA: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = MappingProxyType(
    {
        "text-generation": (
            "smollm2-135m-instruct",
            {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
            {"max_new_tokens": 32},
        ),
        "asr": ("whisper-base", {"audio": "s3://media/talk.flac"}, {"language": "en", "timestamps": "word"}),
        "audio-classification": ("ast-audioset", {"audio": "s3://media/street.wav"}, {"top_k": 3}),
        "video-analysis": ("videomae-kinetics", {"video": "s3://media/match.mp4"}, {"num_frames": 16}),
        "vlm": (
            "smolvlm-256m-instruct",
            {"image": "s3://media/photo.jpg", "prompt": "What is in this picture?"},
            {"max_new_tokens": 64},
        ),
        "ocr": ("pp-ocrv5-mobile", {"image": "s3://media/page.png"}, {}),
        "document-analysis": (
            "pp-ocrv5-mobile",
            {"document": "s3://media/contract.pdf", "pages": [1, 2]},
            {},
        ),
    }
)
"""By task: the name of a model as one may register it, the data, and options."""


def request_examples(tasks: Iterable[str]) -> dict[str, Any]:
    """Return an OpenAPI example of a request for each of `tasks` that is one of ours, by task."""
    return {
        task: {
            "value": {
                "task": task,
                "engine": "transformers",
                "model_name": model_name,
                "data": data,
                "options": options,
            }
        }
        for task in tasks
        if task in _DATA
        for model_name, data, options in [_DATA[task]]
    }
