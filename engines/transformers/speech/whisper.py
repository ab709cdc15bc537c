"""asr by Whisper models: recordings of any length, in windows that run together in batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, WhisperForConditionalGeneration

from engines.transformers.device import to_model
from engines.transformers.loading import ModelFolder
from engines.transformers.memory_limits import ShrinkOnOutOfMemory
from engines.transformers.process_state import running
from engines.transformers.runner import Outcome, TaskRunner
from engines.transformers.speech.options import WhisperLanguages
from engines.transformers.speech.recordings import Heard, Recording, Window, next_pass, split_at_pauses
from engines.transformers.speech.segments import Segment, join_texts, words_of
from engines.transformers.speech.whisper_pass import SpeechTokens, encoder_output, hear
from handlers.errors import ModelLoadFailed

_WINDOWS_AT_ONCE = 8
"""Most windows in one pass: bounds memory. Each costs 1, as the encoder pads them all."""

_MOST_KEPT = 2 * _WINDOWS_AT_ONCE
"""For how many windows the encoder's output is kept for another attempt; others are encoded again."""

_SILENCE = 1e-4
"""Windows that never get louder hold no speech; the model would invent some."""

_TOKENS_PER_S, _SPARE_TOKENS = 16, 32
"""Most tokens of a window: more than the fastest speech needs, so that only a runaway is cut."""

_MAX_PASSES = 6
"""How often one window is continued from where the model stopped."""


class WhisperRunner(TaskRunner):
    """Transcribes float32 mono recordings within -1..1 at the model's sampling rate, of any length. They are split at
    pauses into windows; each is continued from where the model stopped."""

    kinds = ("AutoModelForSpeechSeq2Seq",)
    needs = "a Whisper speech model"
    parts = (ModelFolder.tokenizer, ModelFolder.feature_extractor)

    model: WhisperForConditionalGeneration

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, extractor: Any) -> None:
        if not isinstance(model, WhisperForConditionalGeneration):
            raise ModelLoadFailed(f"model {name} is a {type(model).__name__}; asr runs Whisper models")
        super().__init__(name, model)
        self.tokenizer = tokenizer
        self.extractor = extractor
        self.rate: int = extractor.sampling_rate
        self.windows = ShrinkOnOutOfMemory(name, of="windows", most=_WINDOWS_AT_ONCE)
        self.languages = WhisperLanguages(name, model, tokenizer)
        self.tokens = SpeechTokens(tokenizer)

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> Recording:
        settings = self.languages.settings(options)
        language = self.languages.code(options.get("language"))
        return Recording(inputs["audio"], language, settings, is_language_given=language is not None)

    def answer(self, prepared: Sequence[Recording]) -> Iterator[tuple[int, Outcome]]:
        """Yield the result of each recording when it is complete; doubtful windows are repeated at the end. Keys:
        text, language, segments, words (where asked for), duration_s, windows, and finish_reason: length where a
        window has more text than it may have tokens, else stop."""
        waiting: list[Window] = []
        for place, recording in enumerate(prepared):
            windows = self._windows(recording)
            recording.left = len(windows)
            waiting += windows
            if not windows:
                yield place, self._result(recording)
        while waiting:
            batch, waiting = next_pass(waiting, most=_WINDOWS_AT_ONCE)
            with running(), torch.inference_mode():
                again = self.windows.run(self._hear, batch, [1.0] * len(batch))
            kept = sum(window.encoded is not None for window in waiting)
            for window, following in zip(batch, again, strict=True):
                if following is not None:
                    kept += following.encoded is not None
                    waiting.append(following if kept <= _MOST_KEPT else replace(following, encoded=None))
                    continue
                window.recording.left -= 1
                if not window.recording.left:
                    yield prepared.index(window.recording), self._result(window.recording)

    def _windows(self, recording: Recording) -> list[Window]:
        borders = split_at_pauses(recording.samples, rate=self.rate, window_s=self.extractor.chunk_length)
        recording.windows = len(borders)
        windows = (Window(recording, start, end) for start, end in borders)
        loud = [window for window in windows if np.abs(window.samples).max(initial=0.0) > _SILENCE]
        recording.silent_windows = len(borders) - len(loud)
        return loud

    def _hear(self, windows: Sequence[Window]) -> list[Window | None]:
        """Run one pass over `windows` and add their segments to the recordings; return the windows still to run."""
        states, mask = self._encoded(windows)
        sources = self._detect_languages(windows, states)
        longest_s = max(window.end - window.start for window in windows) / self.rate
        most_tokens = int(_SPARE_TOKENS + _TOKENS_PER_S * longest_s)
        found = hear(self.model, self.tokens, windows, states, mask, max_new_tokens=most_tokens)
        verdicts = [self._verdict(window, heard) for window, heard in zip(windows, found, strict=True)]
        misled = {source for source, row in sources.items() if verdicts[row] == "silence"}
        following: list[Window | None] = []
        for row, (window, heard, verdict) in enumerate(zip(windows, found, verdicts, strict=True)):
            is_misled = id(window.recording) in misled  # its language came from a window without speech
            if verdict == "silence":
                self._pass_over(window)
                following.append(None)
            elif verdict == "taken" and not is_misled:
                best = window.better(heard)
                rest = self._collect(window, best)
                window.recording.is_cut |= rest is None and not best.evidence.is_whole
                following.append(rest)
            else:
                kept = states[row : row + 1].clone(), mask[row : row + 1]  # without its neighbours
                again = replace(window, encoded=kept)
                if not is_misled:
                    again = replace(again, attempt=window.attempt + 1, best=window.better(heard))
                following.append(again)
        return following

    def _verdict(self, window: Window, heard: Heard) -> Literal["silence", "again", "taken"]:
        guards = window.recording.settings.guards
        if guards.is_silence(heard.evidence):
            return "silence"
        is_last = window.attempt + 1 >= len(guards.temperatures)
        if heard.text and guards.is_doubtful(heard.evidence) and not is_last:
            return "again"
        best = window.better(heard)
        if not best.text or guards.is_silence_after_all(best.evidence):
            return "silence"
        return "taken"

    def _pass_over(self, window: Window) -> None:
        """Note that `window` holds no speech; a language detected in it is dropped."""
        recording = window.recording
        recording.silent_windows += window.passes == 1  # the rest of a window has speech before it
        if recording.is_language_open:
            recording.language = None

    def _encoded(self, windows: Sequence[Window]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the encoder's output for `windows`, all of which are new, or none of them."""
        known = [window.encoded for window in windows if window.encoded is not None]
        if known:
            states, masks = zip(*known, strict=True)
            return torch.cat(states), torch.cat(masks)
        heard = self.extractor(
            [window.samples for window in windows],
            sampling_rate=self.rate,
            return_attention_mask=True,
            return_tensors="pt",
        )
        heard = to_model(self.model, heard)
        encoded = self.model.get_encoder()(heard["input_features"])
        return encoded.last_hidden_state, heard["attention_mask"]

    def _detect_languages(self, windows: Sequence[Window], states: torch.Tensor) -> dict[int, int]:
        """Set the language of recordings without one, by the first of their windows. Return the rows of those
        windows, by the `id` of the recording."""
        first: dict[int, int] = {}
        for row, window in enumerate(windows):
            if window.recording.language is None:
                first.setdefault(id(window.recording), row)
        unknown = list(first.values())
        if unknown:
            encoded = encoder_output(states[unknown])
            for row, code in zip(unknown, self.languages.detect(self.model, encoded), strict=True):
                windows[row].recording.language = code
        return first

    def _collect(self, window: Window, heard: Heard) -> Window | None:
        """Take the segments of `window`; return the rest of it, if the model stopped before its end.

        A last segment that ends in two timestamps means: continue from there.
        Source: https://arxiv.org/abs/2212.04356 section 3.8 (long-form transcription).
        """
        recording, parts = window.recording, heard.parts
        segments = [self._segment(window, heard, part) for part in parts]
        recording.segments += [segment for segment in segments if segment.text.strip()]
        if not recording.settings.timestamps:
            return None
        last = parts[-1]["tokens"].tolist()
        if len(last) < 2 or min(last[-2:]) < self.tokens.first_timestamp:
            return None
        rest_from = window.start + round(float(parts[-1]["end"]) * self.rate)
        said = sum(len(self.tokens.text_tokens(part["tokens"].tolist())) for part in parts)
        tail = self.tokens.text_tokens(heard.sequence)[said:]
        if window.end - rest_from < (0 if tail else self.rate):
            return None
        if rest_from > window.start and window.passes < _MAX_PASSES:
            return Window(recording, rest_from, window.end, window.passes + 1)
        start, end = rest_from / self.rate, window.end / self.rate
        recording.segments.append(Segment(start, end, self.tokens.text(tail), measures=heard.evidence.measures()))
        return None

    def _segment(self, window: Window, heard: Heard, part: dict[str, Any]) -> Segment:
        offset, window_end = window.start / self.rate, window.end / self.rate
        start = min(offset + float(part["start"]), window_end)
        end = min(offset + float(part["end"]), window_end)
        tokens = part["tokens"].tolist()
        words: tuple[dict[str, Any], ...] = ()
        if window.recording.settings.timestamps == "word":
            times = [min(offset + time, window_end) for time in part["token_timestamps"].tolist()]
            spoken = [pair for pair in zip(tokens, times, strict=False) if pair[0] < self.tokens.end]
            words = words_of(spoken, decode=self.tokens.decode, language=window.recording.language, end=end)
        return Segment(start, end, self.tokens.text(tokens), words, heard.evidence.measures())

    def _result(self, recording: Recording) -> dict[str, Any]:
        segments = sorted(recording.segments, key=lambda segment: segment.start)
        timestamps = recording.settings.timestamps
        result: dict[str, Any] = {
            "text": join_texts(segments, recording.language),
            "language": recording.language,
            "segments": [segment.as_dict() for segment in segments] if timestamps else [],
            "duration_s": round(len(recording.samples) / self.rate, 3),
            "windows": recording.windows,
            "windows_without_speech": recording.silent_windows,
            "finish_reason": "length" if recording.is_cut else "stop",
        }
        if timestamps == "word":
            result["words"] = list(itertools.chain.from_iterable(segment.words for segment in segments))
        return result
