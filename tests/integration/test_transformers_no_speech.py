"""Whisper on real weights: sounds in which nobody speaks give no text, and speech beside them stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from engines.transformers.engine import TransformersEngine
from handlers.errors import InferenceError
from tests.device import on_this_machine
from tests.recordings import Recording, normalized
from tests.sounds import RATE, Samples, sounds_without_speech

ENGINE = TransformersEngine(on_this_machine())
SOUNDS = sounds_without_speech()


@pytest.fixture(scope="module")
def tiny(whisper_tiny_path: Path) -> Any:
    return ENGINE.load_model("whisper-tiny.en", task="asr", path=whisper_tiny_path)


@pytest.fixture(scope="module")
def base(whisper_base_path: Path) -> Any:
    return ENGINE.load_model("whisper-base", task="asr", path=whisper_base_path)


def inputs_of(samples: Samples) -> dict[str, Any]:
    return {"audio": samples, "sampling_rate": RATE, "duration_s": len(samples) / RATE}


def heard(model: Any, sounds: list[Samples], **options: Any) -> list[dict[str, Any]]:
    found = ENGINE.infer_batch(model, [inputs_of(one) for one in sounds], [options] * len(sounds))
    results = []
    for one in found:
        assert not isinstance(one, InferenceError), one
        results.append(one)
    return results


def samples_of(clip: Recording) -> Samples:
    samples: Samples = soundfile.read(clip.path, dtype="float32")[0]
    return samples


@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ["tiny", "base"])
def test_sounds_in_which_nobody_speaks_give_no_text(model: str, request: pytest.FixtureRequest) -> None:
    results = heard(request.getfixturevalue(model), list(SOUNDS.values()))
    texts = {name: result["text"] for name, result in zip(SOUNDS, results, strict=True)}
    assert texts == dict.fromkeys(SOUNDS, "")
    assert all(result["segments"] == [] for result in results)
    assert all(result["windows_without_speech"] == result["windows"] == 1 for result in results)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ["tiny", "base"])
def test_speech_beside_sounds_without_speech_is_heard_word_for_word(
    model: str, request: pytest.FixtureRequest, librivox_clips: tuple[Recording, ...]
) -> None:
    runner = request.getfixturevalue(model)
    clips = [samples_of(clip) for clip in librivox_clips]
    alone = heard(runner, clips)
    for clip, result in zip(librivox_clips, alone, strict=True):
        assert normalized(result["text"]).replace(" ", "") == clip.transcript.replace(" ", "")
        (segment,) = result["segments"]
        assert -1 < segment["avg_logprob"] < 0
        assert 0 <= segment["no_speech_prob"] < 0.1
        assert 0.5 < segment["compression_ratio"] < 2
    beside = heard(runner, [SOUNDS["tone of 440 Hz"], *clips, SOUNDS["clicks"]])
    assert [one["text"] for one in beside] == ["", *(one["text"] for one in alone), ""]


@pytest.mark.timeout(900)
def test_the_language_is_told_by_the_windows_in_which_somebody_speaks(
    base: Any, librivox_clips: tuple[Recording, ...]
) -> None:
    clip = librivox_clips[0]
    noise, pause = SOUNDS["white noise at -40 dB"], np.zeros(RATE, np.float32)
    [result] = heard(base, [np.concatenate([noise[: 29 * RATE], pause, samples_of(clip), pause])])
    assert normalized(result["text"]) == clip.transcript
    assert result["language"] == "en"
    assert result["segments"][0]["start"] >= 29


@pytest.mark.timeout(900)
def test_what_is_heard_again_is_drawn_the_same_the_next_time(tiny: Any, librivox_clips: tuple[Recording, ...]) -> None:
    clip = samples_of(librivox_clips[1])
    options = {"logprob_threshold": -0.05, "temperature_increment_on_fallback": 0.5}
    [first] = heard(tiny, [clip], **options)
    [again] = heard(tiny, [clip], **options)
    assert first["segments"] == again["segments"]


@pytest.mark.timeout(900)
def test_a_clean_recording_is_answered_before_its_neighbour_is_heard_again(
    tiny: Any, librivox_clips: tuple[Recording, ...]
) -> None:
    clean, doubted = samples_of(librivox_clips[0]), samples_of(librivox_clips[1])
    options = {"logprob_threshold": -0.05, "temperature_increment_on_fallback": 0.5}
    told: list[int] = []
    inputs = [inputs_of(one) for one in (doubted, clean)]
    outcomes = ENGINE.infer_each(tiny, inputs, [options, {}], lambda number, _: told.append(number))
    assert told == [1, 0]
    assert outcomes == [*heard(tiny, [doubted], **options), *heard(tiny, [clean])]


@pytest.mark.timeout(900)
def test_the_guards_can_be_switched_off(tiny: Any) -> None:
    off = {"no_speech_threshold": 1, "logprob_threshold": -100, "compression_ratio_threshold": 1000}
    [result] = heard(tiny, [SOUNDS["a click"]], **off)
    assert result["text"]
