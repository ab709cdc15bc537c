"""The handlers of video-analysis and audio-classification: what they take, refuse and return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from handlers.errors import InvalidInput, InvalidOption
from handlers.options.options import validate_options
from handlers.recording import AudioClassificationHandler
from handlers.settings import MediaSettings
from handlers.video_analysis import VideoAnalysisHandler
from tests.containers import encoded_video

FRAMES = np.zeros((20, 32, 32, 3), np.uint8)


def checked(**options: Any) -> dict[str, Any]:
    return validate_options(options, task_options=VideoAnalysisHandler.options, engine="transformers")


def test_a_video_becomes_frames_with_their_times() -> None:
    inputs = VideoAnalysisHandler().preprocess({"video": encoded_video(FRAMES)}, {"num_frames": 4})
    assert inputs["frames"].shape == (4, 32, 32, 3)
    assert inputs["frame_times_s"] == pytest.approx([0.2, 0.7, 1.2, 1.7])
    assert inputs["duration_s"] == pytest.approx(2.0)
    assert "prompt" not in inputs


def test_a_prompt_is_handed_on() -> None:
    inputs = VideoAnalysisHandler().preprocess({"video": FRAMES, "prompt": "What moves?"}, {})
    assert inputs["prompt"] == "What moves?"


@pytest.mark.parametrize("prompt", ["", "  ", 5, ["a"]])
def test_a_prompt_that_is_no_text_is_refused(prompt: Any) -> None:
    with pytest.raises(InvalidInput, match=r"data\.prompt is .*; it must be a text, or left out"):
        VideoAnalysisHandler().preprocess({"video": FRAMES, "prompt": prompt}, {})


def test_the_two_ways_to_choose_frames_exclude_each_other() -> None:
    with pytest.raises(InvalidOption, match="num_frames and every_s both say which frames"):
        VideoAnalysisHandler().preprocess({"video": FRAMES}, checked(num_frames=4, every_s=1))


def test_more_frames_than_the_limit_are_refused() -> None:
    handler = VideoAnalysisHandler(MediaSettings(max_frames=8))
    with pytest.raises(InvalidOption, match=r"num_frames is 9; media\.max_frames allows at most 8"):
        handler.preprocess({"video": encoded_video(FRAMES)}, checked(num_frames=9))
    with pytest.raises(InvalidOption, match=r"would give 20 frames; media\.max_frames allows 8"):
        handler.preprocess({"video": encoded_video(FRAMES)}, checked(every_s=0.1))


def test_without_options_no_more_frames_are_taken_than_the_limit() -> None:
    handler = VideoAnalysisHandler(MediaSettings(max_frames=8))
    assert len(handler.preprocess({"video": encoded_video(FRAMES)}, {})["frames"]) == 8


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_frames": 0}, r"options\.num_frames is 0; it must be an integer from 1 to media\.max_frames"),
        ({"num_frames": 2.5}, r"options\.num_frames is 2\.5"),
        ({"every_s": 0}, r"options\.every_s is 0; it must be a number from 0\.001 to 86400"),
        ({"num_frame": 4}, "the nearest known option is num_frames"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidOption, match=told):
        checked(**options)


def test_labels_come_with_the_times_of_what_the_model_saw() -> None:
    labels = [{"label": "left", "score": 0.9}]
    raw = {"labels": labels, "frame_times_s": [0.5, 1.5], "duration_s": 2.0}
    assert VideoAnalysisHandler().postprocess(raw, {}) == {
        "labels": labels,
        "frame_times": [0.5, 1.5],
        "metadata": {"duration_s": 2.0},
    }


def test_words_come_with_the_times_of_what_the_model_saw() -> None:
    raw = {
        "generated_text": "A cat.",
        "prompt_tokens": 40,
        "completion_tokens": 3,
        "finish_reason": "stop",
        "frame_times_s": [0.5],
        "duration_s": 1.0,
    }
    assert VideoAnalysisHandler().postprocess(raw, {}) == {
        "generated_text": "A cat.",
        "frame_times": [0.5],
        "metadata": {
            "prompt_tokens": 40,
            "completion_tokens": 3,
            "finish_reason": "stop",
            "duration_s": 1.0,
        },
    }


def test_both_handlers_ask_for_their_media() -> None:
    with pytest.raises(InvalidInput, match=r"data\.video is required for task video-analysis; got audio"):
        VideoAnalysisHandler().preprocess({"audio": b""}, {})
    with pytest.raises(InvalidInput, match=r"data\.audio is required for task audio-classification"):
        AudioClassificationHandler().preprocess({}, {})


def test_a_recording_becomes_samples_and_labels_come_back() -> None:
    handler = AudioClassificationHandler()
    inputs = handler.preprocess({"audio": np.zeros(8000, np.float32), "sampling_rate": 8000}, {})
    assert len(inputs["audio"]) == inputs["sampling_rate"] == 16_000
    assert inputs["duration_s"] == 1.0
    labels = [{"label": "noise", "score": 0.7}]
    assert handler.postprocess({"labels": labels, "duration_s": 1.0}, {}) == {
        "labels": labels,
        "metadata": {"duration_s": 1.0},
    }
