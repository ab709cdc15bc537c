"""asr by Whisper models: recordings of any length, in windows that run together in batches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase, WhisperForConditionalGeneration

from engines.transformers.asr import SpeechRecognitionRunner
from engines.transformers.batch_budget import BatchBudget
from engines.transformers.loading import ModelFolder
from engines.transformers.process_state import running
from engines.transformers.row import without_half_character
from engines.transformers.runner import Outcome
from engines.transformers.speech_options import SpeechSettings, WhisperLanguages
from engines.transformers.speech_segments import Segment, join_texts, words_of
from engines.transformers.transfer import to_model
from engines.transformers.windows import split_at_pauses
from handlers.errors import InferenceError, ModelLoadFailed

_WINDOWS_AT_ONCE = 8
"""Windows in one pass: bounds memory, however long the recordings are. Each costs 1: the encoder pads them all."""

_SILENCE = 1e-4
"""Windows that never get louder hold no speech; the model would invent some."""

_TOKENS_PER_S, _SPARE_TOKENS = 16, 32
"""Most tokens for a window: more than the fastest speech needs, so that only a runaway is cut."""

_MAX_PASSES = 6
"""Times one window is heard again from where the model stopped."""


@dataclass(slots=True)
class _Recording:
    """One input in the making."""

    samples: NDArray[np.float32]
    language: str | None
    settings: SpeechSettings
    windows: int = 0
    segments: list[Segment] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Window:
    """A stretch of a recording that one pass of the model hears, beginning at sample `start`."""

    recording: _Recording
    start: int
    end: int
    passes: int = 1

    @property
    def samples(self) -> NDArray[np.float32]:
        return self.recording.samples[self.start : self.end]

    @property
    def turn(self) -> tuple[int, int]:
        """The smallest goes first: the longest, but the beginning of a recording whose language is not known."""
        return (self.start if self.recording.language is None else 0, self.start - self.end)


class WhisperRunner(SpeechRecognitionRunner):
    """Transcribes in windows cut at pauses, each heard again from where the model stopped."""

    model: WhisperForConditionalGeneration

    def __init__(
        self,
        name: str,
        model: WhisperForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        extractor: Any,
    ) -> None:
        super().__init__(name, model)
        self.tokenizer = tokenizer
        self.extractor = extractor
        self.rate: int = extractor.sampling_rate
        self.windows = BatchBudget(name, of="windows", most_cost=_WINDOWS_AT_ONCE)
        self.languages = WhisperLanguages(name, model, tokenizer)
        vocabulary = tokenizer.get_vocab()
        self._first_special = vocabulary["<|endoftext|>"]
        self._first_timestamp = vocabulary["<|notimestamps|>"] + 1

    @classmethod
    def load(cls, folder: ModelFolder) -> WhisperRunner:
        """Return the runner of a Whisper model with its tokenizer and feature extractor."""
        purpose = "a sequence-to-sequence speech model"
        model = folder.model("AutoModelForSpeechSeq2Seq", purpose=purpose)
        if not isinstance(model, WhisperForConditionalGeneration):
            raise ModelLoadFailed(f"model {folder.name} is a {type(model).__name__}; asr runs Whisper models")
        return cls(folder.name, model, folder.tokenizer(), folder.feature_extractor())

    @running()
    def run(self, inputs: Sequence[dict[str, Any]], options: Sequence[dict[str, Any]]) -> list[Outcome]:
        """Return text, language, segments, words (where asked for), duration_s and windows for each input."""
        recordings = [self._recording(one, its) for one, its in zip(inputs, options, strict=True)]
        ready = [recording for recording in recordings if isinstance(recording, _Recording)]
        with torch.inference_mode():
            for settings, group in _by_settings(ready):
                self._transcribe(group, settings)
        return [one if isinstance(one, InferenceError) else self._result(one) for one in recordings]

    def _recording(self, inputs: dict[str, Any], options: dict[str, Any]) -> _Recording | InferenceError:
        try:
            settings = self.languages.settings(options)
            return _Recording(inputs["audio"], self.languages.code(options.get("language")), settings)
        except InferenceError as error:
            return error

    def _transcribe(self, recordings: Sequence[_Recording], settings: SpeechSettings) -> None:
        waiting = [window for recording in recordings for window in self._windows(recording)]
        while waiting:
            # A pass lasts as long as its longest window, so windows of one length share it.
            waiting.sort(key=lambda window: window.turn)
            batch, waiting = waiting[:_WINDOWS_AT_ONCE], waiting[_WINDOWS_AT_ONCE:]
            rests = self.windows.run(lambda some: self._hear(some, settings), batch, [1.0] * len(batch))
            waiting += [rest for rest in rests if rest is not None]

    def _windows(self, recording: _Recording) -> list[_Window]:
        borders = split_at_pauses(recording.samples, rate=self.rate, window_s=self.extractor.chunk_length)
        recording.windows = len(borders)
        windows = (_Window(recording, start, end) for start, end in borders)
        return [window for window in windows if np.abs(window.samples).max(initial=0.0) > _SILENCE]

    def _hear(self, windows: Sequence[_Window], settings: SpeechSettings) -> list[_Window | None]:
        """Add the segments of `windows` to their recordings; return what is left of each that is cut short."""
        heard = self.extractor(
            [window.samples for window in windows],
            sampling_rate=self.rate,
            return_attention_mask=True,
            return_tensors="pt",
        )
        heard = to_model(self.model, heard)
        encoded = self.model.get_encoder()(heard["input_features"])
        self._detect_languages(windows, encoded)
        longest_s = max(window.end - window.start for window in windows) / self.rate
        found = settings.generate(
            self.model,
            encoder_outputs=encoded,
            attention_mask=heard["attention_mask"],
            max_new_tokens=int(_SPARE_TOKENS + _TOKENS_PER_S * longest_s),
            languages=[window.recording.language for window in windows],
        )
        return [self._collect(window, parts, settings) for window, parts in zip(windows, found, strict=True)]

    def _detect_languages(self, windows: Sequence[_Window], encoded: Any) -> None:
        """Set the language of recordings that have none yet, by the first of their windows."""
        first = {id(window.recording): index for index, window in reversed(list(enumerate(windows)))}
        unknown = [index for index in first.values() if windows[index].recording.language is None]
        if not unknown:
            return
        states = type(encoded)(last_hidden_state=encoded.last_hidden_state[unknown])
        for index, code in zip(unknown, self.languages.detect(self.model, states), strict=True):
            windows[index].recording.language = code

    def _collect(
        self, window: _Window, parts: Sequence[dict[str, Any]], settings: SpeechSettings
    ) -> _Window | None:
        """Take the segments found in `window`; return the rest of it, if the model stopped before its end.

        A last segment that ends in two timestamps means: from there on, listen again.
        Source: https://arxiv.org/abs/2212.04356 section 3.8 (long-form transcription).
        """
        segments = [self._segment(window, part, settings) for part in parts]
        window.recording.segments += [segment for segment in segments if segment.text.strip()]
        if not parts or not settings.timestamps:
            return None
        last = parts[-1]["tokens"].tolist()
        if len(last) < 2 or min(last[-2:]) < self._first_timestamp:
            return None
        rest_from = window.start + round(float(parts[-1]["end"]) * self.rate)
        said = sum(len(self._text_tokens(part["tokens"].tolist())) for part in parts)
        tail = self._text_tokens(_sequence(parts[-1]))[said:]
        if window.end - rest_from < (0 if tail else self.rate):
            return None
        if rest_from > window.start and window.passes < _MAX_PASSES:
            return _Window(window.recording, rest_from, window.end, window.passes + 1)
        tail_segment = Segment(rest_from / self.rate, window.end / self.rate, self._text(tail))
        window.recording.segments.append(tail_segment)
        return None

    def _segment(self, window: _Window, part: dict[str, Any], settings: SpeechSettings) -> Segment:
        offset, window_end = window.start / self.rate, window.end / self.rate
        start = min(offset + float(part["start"]), window_end)
        end = min(offset + float(part["end"]), window_end)
        tokens = part["tokens"].tolist()
        words: tuple[dict[str, Any], ...] = ()
        if settings.timestamps == "word":
            times = [min(offset + time, window_end) for time in part["token_timestamps"].tolist()]
            spoken = [pair for pair in zip(tokens, times, strict=False) if pair[0] < self._first_special]
            words = words_of(spoken, decode=self._decode, language=window.recording.language, end=end)
        return Segment(start, end, self._text(self._text_tokens(tokens)), words)

    def _result(self, recording: _Recording) -> dict[str, Any]:
        segments = sorted(recording.segments, key=lambda segment: segment.start)
        timestamps = recording.settings.timestamps
        result: dict[str, Any] = {
            "text": join_texts(segments, recording.language),
            "language": recording.language,
            "segments": [segment.as_dict() for segment in segments] if timestamps else [],
            "duration_s": round(len(recording.samples) / self.rate, 3),
            "windows": recording.windows,
        }
        if timestamps == "word":
            result["words"] = list(itertools.chain.from_iterable(segment.words for segment in segments))
        return result

    def _text_tokens(self, tokens: Sequence[int]) -> list[int]:
        return [token for token in tokens if token < self._first_special]

    def _text(self, tokens: list[int]) -> str:
        return without_half_character(self._decode(tokens))

    def _decode(self, tokens: list[int]) -> str:
        text = self.tokenizer.decode(tokens)
        return text if isinstance(text, str) else "".join(text)


def _sequence(part: dict[str, Any]) -> list[int]:
    """Return all tokens of the pass that `part` comes from, prompt and end included."""
    result = part["result"]
    tokens: list[int] = (result["sequences"] if isinstance(result, dict) else result).tolist()
    return tokens


def _by_settings(recordings: Sequence[_Recording]) -> list[tuple[SpeechSettings, list[_Recording]]]:
    """Return `recordings` in groups that may run together; one that samples with a seed runs alone."""
    groups: list[tuple[SpeechSettings, list[_Recording]]] = []
    for recording in recordings:
        for settings, group in groups:
            if settings == recording.settings and not settings.samples:
                group.append(recording)
                break
        else:
            groups.append((recording.settings, [recording]))
    return groups
