"""Whisper: which windows are heard together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engines.transformers.speech_options import SpeechSettings
from engines.transformers.whisper import WhisperRunner, _Recording, _Window

RATE = 16_000


class Listening(WhisperRunner):
    """Cuts recordings every 30 s and notes the start and length (s) of the windows of every pass."""

    def __init__(self) -> None:
        self.passes: list[list[tuple[int, int]]] = []

    def _windows(self, recording: _Recording) -> list[_Window]:
        end, step = len(recording.samples), 30 * RATE
        return [_Window(recording, start, min(start + step, end)) for start in range(0, end, step)]

    def _hear(self, windows: Sequence[_Window], settings: SpeechSettings) -> list[_Window]:
        self.passes.append([(one.start // RATE, (one.end - one.start) // RATE) for one in windows])
        for window in windows:
            window.recording.language = window.recording.language or "en"
        return []


def heard(*lengths_s: int, language: str | None) -> list[list[tuple[int, int]]]:
    settings = SpeechSettings()
    runner = Listening()
    runner._transcribe(
        [_Recording(np.zeros(length * RATE, np.float32), language, settings) for length in lengths_s],
        settings,
    )
    return runner.passes


def test_windows_of_one_length_share_a_pass() -> None:
    assert heard(*[3, 20] * 8, language="en") == [[(0, 20)] * 8, [(0, 3)] * 8]


def test_the_beginning_of_a_recording_is_heard_first_where_its_language_is_not_known() -> None:
    first, second = heard(65, *[10] * 7, language=None)
    assert first == [(0, 30), *[(0, 10)] * 7]
    assert second == [(30, 30), (60, 5)]
