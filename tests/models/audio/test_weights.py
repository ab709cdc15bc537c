"""The trained weights of this folder, run by our engine: right by a margin, and as the library runs them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import soundfile

from engines.transformers.engine import TransformersEngine
from handlers.errors import InferenceError, InvalidInput
from handlers.recording import AudioClassificationHandler
from tests.containers import encoded_sound
from tests.device import on_this_machine
from tests.models.audio import WEIGHTS
from tests.models.audio.sounds import KINDS, RATE, Samples, Sounds
from tests.recordings import Recording

ENGINE = TransformersEngine(on_this_machine())
HANDLER = AudioClassificationHandler()
SEED = 424_242
ITEMS = 60


@pytest.fixture(scope="module")
def runner() -> Any:
    return ENGINE.load_model("tiny-audio", task="audio-classification", path=WEIGHTS)


def held_out(count: int) -> list[tuple[str, Samples]]:
    """Return `count` sounds that training never had, each kind in turn."""
    sounds = Sounds(SEED, held_out=True)
    return [(kind, sounds.make(kind)) for kind in itertools.islice(itertools.cycle(KINDS), count)]


def classified(runner: Any, *recordings: Any, **options: Any) -> list[dict[str, Any]]:
    inputs = [HANDLER.preprocess({"audio": recording}, {}) for recording in recordings]
    raw = ENGINE.infer_batch(runner, inputs, [options] * len(inputs))
    results = [HANDLER.postprocess(one, {}) for one in raw if not isinstance(one, InferenceError)]
    assert len(results) == len(inputs), raw
    return results


def test_held_out_sounds_are_recognised_by_a_margin(runner: Any) -> None:
    kinds, sounds = zip(*held_out(ITEMS), strict=True)
    found = [result["labels"][0]["label"] for result in classified(runner, *sounds)]
    wrong = [pair for pair in zip(kinds, found, strict=True) if pair[0] != pair[1]]
    assert len(wrong) <= 0.05 * ITEMS, wrong


def test_a_recording_is_heard_to_its_end(runner: Any) -> None:
    sounds = Sounds(SEED, held_out=True)
    noise, tone = sounds.make("noise", seconds=1), sounds.make("tone", seconds=8)
    [behind, alone] = classified(runner, np.concatenate([noise, tone]), noise)
    assert behind["labels"][0]["label"] == "tone"
    assert alone["labels"][0]["label"] == "noise"
    assert behind["metadata"] == {"duration_s": 9.0, "windows": 9, "heard_s": 9.0}
    assert sum(label["score"] for label in behind["labels"]) == pytest.approx(1, abs=0.05)


def test_of_a_very_long_recording_windows_at_equal_distances_are_heard_and_told(
    runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.transformers.classification._MOST_WINDOWS", 4)
    sounds = Sounds(SEED, held_out=True)
    long = np.concatenate([sounds.make("tone", seconds=15), sounds.make("noise", seconds=5)])
    [result] = classified(runner, long)
    assert result["labels"][0]["label"] == "tone"
    assert result["metadata"] == {"duration_s": 20.0, "windows": 4, "heard_s": 4.0}


def test_recorded_speech_is_speech_in_any_container(runner: Any, librivox_clips: tuple[Recording, ...]) -> None:
    samples, rate = soundfile.read(librivox_clips[0].path, dtype="float32")
    m4a = encoded_sound(samples, container="ipod", codec="aac", rate=rate)
    webm = encoded_sound(samples, container="webm", codec="libopus", rate=rate)
    for result in classified(runner, librivox_clips[0].path.read_bytes(), m4a, webm):
        assert result["labels"][0]["label"] == "speech"
        assert result["metadata"]["duration_s"] == pytest.approx(len(samples) / rate, abs=0.1)


def test_labels_and_scores_are_those_of_the_librarys_pipeline(runner: Any) -> None:
    from transformers import pipeline

    library: Any = pipeline("audio-classification", model=str(WEIGHTS), dtype="float32", device="cpu")
    sounds = [sound[:RATE] for _, sound in held_out(len(KINDS))]  # the library hears the beginning only
    for sound, result in zip(sounds, classified(runner, *sounds), strict=True):
        expected = library(sound, top_k=5)
        assert [one["label"] for one in result["labels"]] == [one["label"] for one in expected]
        scores = [one["score"] for one in result["labels"]]
        assert scores == pytest.approx([one["score"] for one in expected], abs=1e-5)


def test_five_labels_come_unless_another_number_is_asked_for(runner: Any) -> None:
    [(_, sound)] = held_out(1)
    [result] = classified(runner, sound)
    scores = [one["score"] for one in result["labels"]]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert len(classified(runner, sound, top_k=2)[0]["labels"]) == 2
    everything = classified(runner, sound, top_k=0)[0]["labels"]
    assert {one["label"] for one in everything} == set(KINDS)
    assert sum(one["score"] for one in everything) == pytest.approx(1, abs=1e-5)
    assert classified(runner, sound, top_k=1000)[0]["labels"] == everything


def test_a_sound_of_a_few_milliseconds_is_classified(runner: Any) -> None:
    [(_, sound)] = held_out(1)
    [result] = classified(runner, sound[: RATE // 200])
    assert len(result["labels"]) == 5
    assert result["metadata"]["duration_s"] == 0.005


def test_of_a_batch_of_three_with_one_bad_input_the_others_are_answered(runner: Any) -> None:
    (first_kind, first), _, (last_kind, last) = held_out(3)
    good = [HANDLER.preprocess({"audio": sound}, {}) for sound in (first, last)]
    bad = {**good[0], "audio": good[0]["audio"].reshape(1, 1, -1)}
    outcomes = ENGINE.infer_batch(runner, [good[0], bad, good[1]], [{}] * 3)
    assert isinstance(outcomes[1], InferenceError)
    assert not isinstance(outcomes[1], InvalidInput)
    assert isinstance(outcomes[0], dict)
    assert isinstance(outcomes[2], dict)
    assert outcomes[0]["labels"][0]["label"] == first_kind
    assert outcomes[2]["labels"][0]["label"] == last_kind


def test_the_weights_are_small() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 2_000_000
