"""What tasks about one recording take, and what they give the model of it."""

from __future__ import annotations

import numpy as np
import pytest

from handlers.decoding.audio import SAMPLE_RATE
from handlers.errors import InvalidInput, MediaTooLarge
from handlers.recording import AsrHandler, AudioClassificationHandler, RecordingHandler
from handlers.settings import MediaSettings

BOTH = pytest.mark.parametrize("kind", [AsrHandler, AudioClassificationHandler])


@BOTH
def test_the_recording_comes_at_16_khz_with_its_length(kind: type[RecordingHandler]) -> None:
    inputs = kind().preprocess({"audio": np.zeros(8000), "sampling_rate": 8000}, {})
    assert inputs["sampling_rate"] == SAMPLE_RATE
    assert inputs["duration_s"] == pytest.approx(1.0, abs=0.001)
    assert len(inputs["audio"]) == pytest.approx(SAMPLE_RATE, abs=2)


@BOTH
def test_a_recording_beyond_the_limits_is_refused(kind: type[RecordingHandler]) -> None:
    handler = kind(MediaSettings(max_audio_s=0.5))
    with pytest.raises(MediaTooLarge, match=r"max_audio_s allows 0\.5 s"):
        handler.preprocess({"audio": np.zeros(SAMPLE_RATE)}, {})


@BOTH
def test_a_request_without_a_recording_is_refused(kind: type[RecordingHandler]) -> None:
    with pytest.raises(InvalidInput, match=rf"data\.audio is required for task {kind.task}; got sound"):
        kind().preprocess({"sound": b""}, {})
