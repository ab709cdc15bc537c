"""What a task's output holds: one table, checked against every answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0)]
Text = Annotated[str, Meta(min_length=1)]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""
Point = tuple[float, float]
Corners = tuple[Point, Point, Point, Point]
"""Clockwise, from the top left of the text."""


class Output(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What every output holds."""

    metadata: dict[str, Any]


class Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A piece of an output."""


class Generation(msgspec.Struct, kw_only=True):
    """What metadata says of a text that was generated; engines may say more."""

    prompt_tokens: Annotated[int, Meta(ge=1)]
    completion_tokens: Annotated[int, Meta(ge=0)]
    finish_reason: Text


class GeneratedText(Output, kw_only=True):
    generated_text: str

    def __post_init__(self) -> None:
        msgspec.convert(self.metadata, Generation)


class Segment(Part, kw_only=True):
    start: Seconds
    end: Seconds
    text: str
    avg_logprob: float | UnsetType = UNSET
    no_speech_prob: Share | UnsetType = UNSET
    compression_ratio: Annotated[float, Meta(ge=0)] | UnsetType = UNSET


class Word(Part, kw_only=True):
    start: Seconds
    end: Seconds
    word: Text


class Transcript(Output, kw_only=True):
    text: str
    language: str | None
    segments: list[Segment]
    words: list[Word] | UnsetType = UNSET


class Line(Part, kw_only=True):
    text: Text
    box: Box
    score: Share | UnsetType = UNSET
    polygon: Corners | UnsetType = UNSET
    boxes: Annotated[list[Box], Meta(min_length=2)] | UnsetType = UNSET


class ReadText(Output, kw_only=True):
    text: str
    lines: list[Line]


class Label(Part, kw_only=True):
    label: Text
    score: Share


class Labels(Output, kw_only=True):
    labels: Annotated[list[Label], Meta(min_length=1)]

    def __post_init__(self) -> None:
        scores = [one.score for one in self.labels]
        if scores != sorted(scores, reverse=True):
            raise ValueError(f"the likeliest label must come first; scores are {scores}")


class SeenVideo(Output, kw_only=True):
    frame_times: Annotated[list[Seconds], Meta(min_length=1)]
    labels: list[Label] | UnsetType = UNSET
    generated_text: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        if (self.labels is UNSET) == (self.generated_text is UNSET):
            raise ValueError("an output has labels or generated_text, and not both")


class Page(Part, kw_only=True):
    number: Annotated[int, Meta(ge=1)]
    width: Annotated[float, Meta(gt=0)]
    height: Annotated[float, Meta(gt=0)]
    dpi: Annotated[float, Meta(gt=0)] | None
    text_source: Literal["text_layer", "ocr", "mixed"]
    text: str
    regions: list[Line]
    unread_pictures: bool | UnsetType = UNSET
    finish_reason: str | UnsetType = UNSET


class Document(Output, kw_only=True):
    pages: Annotated[list[Page], Meta(min_length=1)]
    answer: str | UnsetType = UNSET


OUTPUTS: dict[str, type[Output]] = {
    "text-generation": GeneratedText,
    "vlm": GeneratedText,
    "asr": Transcript,
    "ocr": ReadText,
    "audio-classification": Labels,
    "video-analysis": SeenVideo,
    "document-analysis": Document,
}
"""The output of each task; a new task is one line here."""
