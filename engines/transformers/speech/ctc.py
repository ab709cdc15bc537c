"""asr by CTC models (wav2vec2 and its kin): overlapping windows, the likeliest token of every frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Wav2Vec2CTCTokenizer

from engines.transformers.device import to_model
from engines.transformers.loading import ModelFolder
from engines.transformers.memory_limits import ShrinkOnOutOfMemory
from engines.transformers.process_state import running
from engines.transformers.runner import Outcome, TaskRunner, refuse_options
from engines.transformers.speech.segments import Segment, segments_at_pauses
from handlers.errors import InvalidOption

WINDOW_S = 30.0
"""Length of a window; a sixth of it on either side overlaps its neighbours and does not count."""

_WINDOWS_AT_ONCE = 4
"""Most whole windows in one pass, or as much sound in shorter ones: bounds memory."""

_PAUSE_S = 0.5
"""A longer pause between two words begins a new segment."""

_SHORTEST_S = 0.1
"""Shorter recordings are padded with silence: some models find nothing in less than a frame."""


@dataclass(frozen=True, slots=True)
class OverlappingWindow:
    """Samples `start` to `end`; the first `left` and the last `right` samples overlap and do not count."""

    start: int
    end: int
    left: int
    right: int

    @property
    def length(self) -> int:
        return self.end - self.start

    def frames(self, count: int) -> slice:
        return slice(round(self.left / self.length * count), count - round(self.right / self.length * count))


def split_with_overlap(length: int, *, window: int, stride: int) -> list[OverlappingWindow]:
    """Return windows of at most `window` samples whose counting parts cover `length` samples without a gap. All but
    the first and the last include `stride` samples of their neighbours on either side."""
    windows = []
    for start in range(0, max(length, 1), window - 2 * stride):
        end = min(start + window, length)
        is_last = end == length
        windows.append(OverlappingWindow(start, end, stride if start else 0, 0 if is_last else stride))
        if is_last:
            break
    return windows


@dataclass(slots=True)
class _Recording:
    """One input under way; `tokens` holds the frames of each processed window, by its start."""

    samples: NDArray[np.float32]
    timestamps: Any
    windows: list[OverlappingWindow]
    tokens: dict[int, list[int]] = field(default_factory=dict)


class CtcRunner(TaskRunner):
    """Transcribes float32 mono recordings within -1..1 at the model's own sampling rate, of any length.

    It does so as the library's pipeline with `chunk_length_s`, many recordings at once. Only windows of equal length
    share a pass, so that no padding changes the model's input: several of these models take no mask.
    Source: https://huggingface.co/blog/asr-chunking
    """

    kinds = ("AutoModelForCTC",)
    needs = "a CTC speech model"
    parts = (ModelFolder.tokenizer, ModelFolder.feature_extractor)

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        extractor: Any,
        *,
        window_s: float = WINDOW_S,
    ) -> None:
        super().__init__(name, model)
        self.tokenizer = tokenizer
        self.extractor = extractor
        self.rate: int = extractor.sampling_rate
        ratio = getattr(model.config, "inputs_to_logits_ratio", None)
        self.samples_per_frame: int | None = int(ratio) if ratio else None
        self.window = self._aligned(window_s)
        self.stride = self._aligned(window_s / 6)
        self.windows = ShrinkOnOutOfMemory(name, of="windows", most=_WINDOWS_AT_ONCE * self.window)

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> _Recording:
        refuse_options(
            options,
            takes=("timestamps",),
            because=f"model {self.name} transcribes by CTC, in the one language it was trained on",
        )
        timestamps = options.get("timestamps", "segment")
        if timestamps == "word" and not self._knows_times:
            raise InvalidOption(
                f'options.timestamps is "word", but the tokenizer of model {self.name} does not tell when '
                'a word was said; ask for "segment"'
            )
        samples: NDArray[np.float32] = inputs["audio"]
        windows = split_with_overlap(len(samples), window=self.window, stride=self.stride)
        return _Recording(samples, timestamps, windows)

    def answer(self, prepared: Sequence[_Recording]) -> Iterator[tuple[int, Outcome]]:
        """Yield the result of each recording, the shortest first. Keys: text, language (not known), segments, words
        (where asked for), duration_s and windows."""
        waiting = [(place, window) for place, one in enumerate(prepared) for window in one.windows]
        waiting.sort(key=lambda one: (one[1].length, len(prepared[one[0]].windows)))
        while waiting:
            length = waiting[0][1].length
            alike = [one for one in waiting if one[1].length == length]
            alike = alike[: max(1, int(self.windows.most // length))]
            waiting = waiting[len(alike) :]
            batch = [(prepared[place].samples, window) for place, window in alike]
            with running(), torch.inference_mode():
                heard = self.windows.run(self._pass, batch, [float(length)] * len(batch))
            for (place, window), tokens in zip(alike, heard, strict=True):
                recording = prepared[place]
                recording.tokens[window.start] = tokens
                if len(recording.tokens) == len(recording.windows):
                    yield place, self._result(recording)

    def _pass(self, batch: Sequence[tuple[NDArray[np.float32], OverlappingWindow]]) -> list[list[int]]:
        samples = [recording[window.start : window.end] for recording, window in batch]
        shortest = int(_SHORTEST_S * self.rate)
        features = self.extractor(
            [np.pad(one, (0, max(0, shortest - len(one)))) for one in samples],
            sampling_rate=self.rate,
            return_attention_mask=True,
            return_tensors="pt",
        )
        name = self.model.main_input_name
        seen = {name: features[name], "attention_mask": features.get("attention_mask")}
        logits = self.model(**to_model(self.model, seen)).logits
        heard = []
        for (_, window), tokens in zip(batch, logits.argmax(-1).tolist(), strict=True):
            count = len(tokens)
            if self.samples_per_frame is not None:  # the last frame of a window is cut off by its end
                count = round(window.length / self.samples_per_frame)
            heard.append(tokens[window.frames(count)])
        return heard

    def _result(self, recording: _Recording) -> dict[str, Any]:
        tokens = [token for window in recording.windows for token in recording.tokens[window.start]]
        duration_s = len(recording.samples) / self.rate
        text, words = self._decode(tokens, duration_s)
        segments: list[Segment] = []
        if recording.timestamps and self._knows_times:
            segments = segments_at_pauses(words, pause_s=_PAUSE_S)
        elif recording.timestamps and text:
            segments = [Segment(0.0, duration_s, text)]
        result: dict[str, Any] = {
            "text": text,
            "language": None,
            "segments": [segment.as_dict() for segment in segments],
            "duration_s": round(duration_s, 3),
            "windows": len(recording.windows),
        }
        if recording.timestamps == "word":
            result["words"] = words
        return result

    def _decode(self, tokens: list[int], duration_s: float) -> tuple[str, list[dict[str, Any]]]:
        """Return the text and, where the tokenizer supports it, its words with their times in seconds."""
        if not self._knows_times:
            return str(self.tokenizer.decode(tokens)).strip(), []
        decoded: Any = self.tokenizer.decode(tokens, output_word_offsets=True)
        frame_s = duration_s / max(1, len(tokens))
        if self.samples_per_frame is not None:
            frame_s = self.samples_per_frame / self.rate
        is_lower = getattr(self.tokenizer, "do_lower_case", False)
        words = [
            {
                "word": offset["word"].lower() if is_lower else offset["word"],
                "start": round(float(offset["start_offset"]) * frame_s, 2),
                "end": round(min(float(offset["end_offset"]) * frame_s, duration_s), 2),
            }
            for offset in decoded.word_offsets
        ]
        return decoded.text, words

    @property
    def _knows_times(self) -> bool:
        return isinstance(self.tokenizer, Wav2Vec2CTCTokenizer)

    def _aligned(self, seconds: float) -> int:
        frame = self.samples_per_frame or 1
        return round(seconds * self.rate / frame) * frame
