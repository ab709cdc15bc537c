"""video-analysis by vision-language models; `classification` has the runner that returns labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jinja2 import TemplateError
from PIL import Image

from engines.transformers.classification import evenly, frames_seen
from engines.transformers.generation.token_sequence import TokenSequence
from engines.transformers.process_state import running
from engines.transformers.text.vlm import VisionLanguageRunner, VlmRunner
from handlers.errors import InvalidInput

_ROOM_FOR_ANSWER = 0.25
"""The share of a model's context for the answer where the request does not limit it."""

_CLOCK_HZ = 1000


class VideoDescriptionRunner(VlmRunner):
    """Answers a prompt about a video, with as many frames as fit the model's context. Models that support videos get
    one, with the frames' times; others get images."""

    def __init__(self, asked: VisionLanguageRunner, release: Callable[[], None] = lambda: None) -> None:
        super().__init__(asked, release)
        processor = asked.processor
        self.takes_videos = takes_videos(processor)
        own = getattr(processor, "video_processor", None) if self.takes_videos else None
        self._taken_together: int = getattr(own, "temporal_patch_size", None) or 1

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> TokenSequence:
        """Return the question in the form of vlm; its result has frame_times_s and duration_s as well."""
        if "prompt" not in inputs:
            raise InvalidInput(f"data.prompt is required: model {self.name} answers in text; send a question")
        there = len(inputs["frames"])
        with running():
            seen = evenly(there, min(there, self._frames_that_fit(inputs, options)))
            sequence = super().prepare(self._question(inputs, seen), options)
        times = frames_seen(inputs, seen)
        sequence.as_result = lambda answer: {**answer, **times}
        return sequence

    def _frames_that_fit(self, inputs: dict[str, Any], options: dict[str, Any]) -> int:
        """Return how many frames leave room for the answer, at least 1: each takes equally many tokens."""
        there, together = len(inputs["frames"]), self._taken_together
        context = self.asked.context
        if context is None:
            return there
        room = context - (options.get("max_new_tokens") or int(context * _ROOM_FOR_ANSWER))
        first, second = (self._tokens(inputs, count * together) for count in (1, 2))
        fitting = together * (1 + (room - first) // max(1, second - first))
        while together < fitting < there and self._tokens(inputs, fitting) > room:
            fitting -= together  # the text about the frames grows a little with their number
        return max(1, fitting)

    def _tokens(self, inputs: dict[str, Any], count: int) -> int:
        return len(self.asked.prompt(self._question(inputs, [0] * count)).tokens)

    def _question(self, inputs: dict[str, Any], seen: Sequence[int]) -> dict[str, Any]:
        frames, asked = inputs["frames"][seen], {"type": "text", "text": inputs["prompt"]}
        if self.takes_videos:
            content: list[dict[str, Any]] = [{"type": "video", "video": frames}, asked]
            about: dict[str, Any] = {"video_metadata": metadata_of(inputs, seen)}
        else:
            content = [*({"type": "image"} for _ in frames), asked]
            about = {"images": [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]}
        return {"messages": [{"role": "user", "content": content}], **about}


def takes_videos(processor: Any) -> bool:
    """Return whether `processor` supports videos, and its chat template has a place for one."""
    token = getattr(processor, "video_token", None)
    if getattr(processor, "video_processor", None) is None or not isinstance(token, str):
        return False
    content = [{"type": "video"}, {"type": "text", "text": "?"}]
    try:
        return token in processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    except (TemplateError, ValueError):  # no place for a video, or no template at all
        return False


def metadata_of(inputs: dict[str, Any], seen: Sequence[int]) -> dict[str, Any]:
    """Return the metadata of the frames `seen` for processors: their times, on a clock of milliseconds. Frames are
    numbered as if there were one per millisecond, so that the times are right however the frames were picked."""
    indices = [round(inputs["frame_times_s"][index] * _CLOCK_HZ) for index in seen]
    return {
        "total_num_frames": max(round(inputs["duration_s"] * _CLOCK_HZ), indices[-1] + 1),
        "fps": float(_CLOCK_HZ),
        "duration": inputs["duration_s"],
        "frames_indices": indices,
    }
