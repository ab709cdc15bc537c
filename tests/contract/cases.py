"""One row for each kind of model that a task runs on an engine: what is asked, what must come, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.models import CATALOGUE, prepare
from engines.models.resolved_model import ResolvedModel
from tests.contract import samples
from tests.models.audio import WEIGHTS as AUDIO_WEIGHTS
from tests.models.video import WEIGHTS as VIDEO_WEIGHTS
from tests.models.vlm import WEIGHTS as VLM_WEIGHTS
from tests.recordings import normalized

Wrong = tuple[Any, ...]

NOT_TEXT: Wrong = (42, True, 1.5, {"a": 1}, ["a"], "", "   ")
NOT_MEDIA: Wrong = (42, True, 1.5, {"a": 1}, "no address", "ftp://host/file", "data:;base64,@", [])
NOT_MESSAGES: Wrong = ("text", 42, {}, [], [42], [{"role": "user"}], [{"role": "king", "content": "Bow."}])
NOT_PAGES: Wrong = (0, -1, True, 1.5, "last", [], [99], {"a": 1})

INSTEAD_OF = {"messages": ("inputs", "prompt"), "images": ("image",)}
"""Fields that are given in place of others."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request that is answered, and how to spoil it.

    `media`, `texts` are fields of `data` that hold media and free text; `optional` fields may be left out.
    `wrong` values, by field, are refused; so are media above the `limits`, settings of `MediaSettings`.
    """

    name: str
    task: str
    engine: str
    data: Callable[[], dict[str, Any]]
    is_right: Callable[[dict[str, Any]], bool]
    wrong: Mapping[str, Wrong]
    folder: Callable[[], Path] | None = None
    """Where the model's files are; None where a server holds them."""
    tags: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    media: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    limits: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> ResolvedModel:
        """The model as the registry would know it."""
        source = f"s3://models/{self.name}"
        return ResolvedModel(self.name, "1", source, {"task": self.task, "engine": self.engine, **self.tags})

    def request(self, **changes: Any) -> dict[str, Any]:
        """Return the request, with `changes` to its fields."""
        return {
            "task": self.task,
            "engine": self.engine,
            "model_name": self.name,
            "data": self.data(),
            "options": dict(self.options),
            **changes,
        }

    def with_data(self, name: str, value: Any) -> dict[str, Any]:
        """Return the request with one field of its data changed."""
        kept = {key: old for key, old in self.data().items() if key not in INSTEAD_OF.get(name, ())}
        return self.request(data={**kept, name: value})

    def __str__(self) -> str:
        return self.name


def _label(result: dict[str, Any]) -> str:
    label: str = result["labels"][0]["label"]
    return label


CASES = (
    Case(
        name="text",
        task="text-generation",
        engine="transformers",
        folder=lambda: prepare(CATALOGUE["smollm2-135m-instruct"]),
        data=lambda: {"inputs": "What is the capital of France?"},
        options={"max_new_tokens": 8},
        is_right=lambda result: "Paris" in result["generated_text"],
        wrong={"inputs": NOT_TEXT, "messages": NOT_MESSAGES},
        texts=("inputs",),
    ),
    Case(
        name="conversation",
        task="text-generation",
        engine="ollama",
        tags={"ollama_model_name": "echo"},
        data=lambda: {"messages": [{"role": "user", "content": "Bonjour"}]},
        options={"max_new_tokens": 8},
        is_right=lambda result: result["generated_text"] == "You said: Bonjour",
        wrong={"inputs": NOT_TEXT, "messages": NOT_MESSAGES},
    ),
    Case(
        name="prompt",
        task="text-generation",
        engine="ollama",
        tags={"ollama_model_name": "echo"},
        data=lambda: {"inputs": "Bonjour"},
        is_right=lambda result: result["generated_text"] == "You said: Bonjour",
        wrong={"inputs": NOT_TEXT, "messages": NOT_MESSAGES},
        texts=("inputs",),
    ),
    Case(
        name="drawing",
        task="vlm",
        engine="transformers",
        folder=lambda: VLM_WEIGHTS,
        data=lambda: {"image": samples.drawing(), "prompt": "Describe the image."},
        is_right=lambda result: result["generated_text"].strip() == samples.DRAWING.answer("description"),
        wrong={"image": NOT_MEDIA, "images": NOT_MEDIA, "prompt": NOT_TEXT, "messages": NOT_MESSAGES},
        media=("image",),
        texts=("prompt",),
        limits={"max_image_pixels": 100},
    ),
    Case(
        name="seen",
        task="vlm",
        engine="ollama",
        tags={"ollama_model_name": "eyes"},
        data=lambda: {"images": [samples.drawing(), samples.drawing()], "prompt": "What do you see?"},
        is_right=lambda result: result["generated_text"].count(samples.DRAWN_SIZE) == 2,
        wrong={"image": NOT_MEDIA, "images": NOT_MEDIA, "prompt": NOT_TEXT, "messages": NOT_MESSAGES},
        media=("images",),
        texts=("prompt",),
        limits={"max_images": 1},
    ),
    Case(
        name="speech",
        task="asr",
        engine="transformers",
        folder=lambda: prepare(CATALOGUE["whisper-tiny.en"]),
        data=lambda: {"audio": samples.speech()},
        is_right=lambda result: normalized(result["text"]) == samples.SPOKEN.transcript,
        wrong={"audio": NOT_MEDIA},
        media=("audio",),
        limits={"max_audio_s": 0.1},
    ),
    Case(
        name="sign",
        task="ocr",
        engine="transformers",
        folder=lambda: prepare(CATALOGUE["pp-ocrv5-mobile"]),
        data=lambda: {"image": samples.sign()},
        is_right=lambda result: [line["text"] for line in result["lines"]] == ["INVOICE", "Total: 42"],
        wrong={"image": NOT_MEDIA, "prompt": NOT_TEXT},
        media=("image",),
        limits={"max_image_pixels": 100},
    ),
    Case(
        name="sound",
        task="audio-classification",
        engine="transformers",
        folder=lambda: AUDIO_WEIGHTS,
        data=lambda: {"audio": samples.rising_tone()},
        is_right=lambda result: _label(result) == "chirp_up",
        wrong={"audio": NOT_MEDIA},
        media=("audio",),
        limits={"max_audio_s": 0.1},
    ),
    Case(
        name="movement",
        task="video-analysis",
        engine="transformers",
        folder=lambda: VIDEO_WEIGHTS,
        data=lambda: {"video": samples.square_to_the_left()},
        is_right=lambda result: _label(result) == "left",
        wrong={"video": NOT_MEDIA, "prompt": NOT_TEXT},
        media=("video",),
        limits={"max_video_s": 0.1},
    ),
    Case(
        name="scene",
        task="video-analysis",
        engine="transformers",
        folder=lambda: VLM_WEIGHTS,
        data=lambda: {"video": samples.drawing_on_video(), "prompt": "Describe the image."},
        options={"num_frames": 1},
        is_right=lambda result: result["generated_text"].strip() == samples.DRAWING.answer("description"),
        wrong={"video": NOT_MEDIA, "prompt": NOT_TEXT},
        media=("video",),
        texts=("prompt",),
        limits={"max_video_s": 0.1},
    ),
    Case(
        name="letter",
        task="document-analysis",
        engine="transformers",
        folder=lambda: prepare(CATALOGUE["pp-ocrv5-mobile"]),
        data=lambda: {"document": samples.letter(), "pages": "1-2"},
        is_right=lambda result: (
            [page["text"] for page in result["pages"]] == ["Dear reader,\nthe total is 42.", "Page two"]
        ),
        wrong={"document": NOT_MEDIA, "pages": NOT_PAGES, "question": NOT_TEXT},
        media=("document",),
        optional=("pages",),
        limits={"max_pages": 1},
    ),
    Case(
        name="scan",
        task="document-analysis",
        engine="transformers",
        folder=lambda: prepare(CATALOGUE["pp-ocrv5-mobile"]),
        data=lambda: {"document": samples.sign()},
        is_right=lambda result: result["pages"][0]["text"] == "INVOICE\nTotal: 42",
        wrong={"document": NOT_MEDIA, "pages": NOT_PAGES, "question": NOT_TEXT},
        media=("document",),
        limits={"max_image_pixels": 100},
    ),
    Case(
        name="question",
        task="document-analysis",
        engine="transformers",
        folder=lambda: VLM_WEIGHTS,
        data=lambda: {"document": samples.drawing(), "question": "What color is the shape?"},
        is_right=lambda result: result["answer"] == samples.DRAWING.answer("color"),
        wrong={"document": NOT_MEDIA, "pages": NOT_PAGES, "question": NOT_TEXT},
        media=("document",),
        texts=("question",),
        optional=("question",),
        limits={"max_image_pixels": 100},
    ),
)
"""Every task on every engine that runs it has at least one row; `test_table.py` says which has none."""
