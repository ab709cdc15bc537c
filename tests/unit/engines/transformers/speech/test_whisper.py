"""Whisper: which windows are heard together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from engines.transformers.memory_limits import ShrinkOnOutOfMemory
from engines.transformers.speech.options import SpeechSettings
from engines.transformers.speech.recordings import Recording, Window
from engines.transformers.speech.whisper import WhisperRunner
from handlers.errors import OutOfMemory

RATE = 16_000


class Listening(WhisperRunner):
    """Cuts recordings every 30 s and notes the start and length (s) of the windows of every pass."""

    def __init__(self, most_windows: int = 8) -> None:
        self.windows = ShrinkOnOutOfMemory("m", of="windows", most=8)
        self.most_windows = most_windows
        self.passes: list[list[tuple[int, int]]] = []

    def _windows(self, recording: Recording) -> list[Window]:
        end, step = len(recording.samples), 30 * RATE
        return [Window(recording, start, min(start + step, end)) for start in range(0, end, step)]

    def _hear(self, windows: Sequence[Window], settings: SpeechSettings) -> list[Window | None]:
        self.passes.append([(one.start // RATE, (one.end - one.start) // RATE) for one in windows])
        if len(windows) > self.most_windows:
            raise torch.OutOfMemoryError("no room")
        for window in windows:
            window.recording.language = window.recording.language or "en"
        return [None] * len(windows)


def heard(
    *lengths_s: int, language: str | None, runner: Listening | None = None
) -> list[list[tuple[int, int]]]:
    settings = SpeechSettings()
    runner = runner or Listening()
    runner.passes = []
    runner._transcribe(
        [Recording(np.zeros(length * RATE, np.float32), language, settings) for length in lengths_s],
        settings,
    )
    return runner.passes


def test_windows_of_one_length_share_a_pass() -> None:
    assert heard(*[3, 20] * 8, language="en") == [[(0, 20)] * 8, [(0, 3)] * 8]


def test_the_beginning_of_a_recording_is_heard_first_where_its_language_is_not_known() -> None:
    first, second = heard(65, *[10] * 7, language=None)
    assert first == [(0, 30), *[(0, 10)] * 7]
    assert second == [(30, 30), (60, 5)]


def test_windows_of_one_long_recording_that_do_not_fit_together_are_heard_in_halves_from_then_on() -> None:
    runner = Listening(most_windows=3)
    passes = heard(30 * 10, language=None, runner=runner)
    assert [len(one) for one in passes] == [8, 4, 2, 2, 2, 2, 2]
    assert [start for one in passes[2:] for start, _ in one] == [30 * number for number in range(10)]
    assert [len(one) for one in heard(30 * 4, language="en", runner=runner)] == [2, 2]


def test_a_recording_of_which_no_window_fits_is_worth_another_try() -> None:
    with pytest.raises(OutOfMemory):
        heard(30 * 3, language="en", runner=Listening(most_windows=0))
