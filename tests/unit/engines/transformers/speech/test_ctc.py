"""Speech recognition by CTC on a tiny random model: what the library's own pipeline spells, at any length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import pipeline

from engines.transformers.engine import TransformersEngine
from engines.transformers.memory_limits import ShrinkOnOutOfMemory
from engines.transformers.speech.ctc import CtcRunner
from handlers.errors import InvalidOption
from tests.device import on_this_machine
from tests.unit.engines.tiny_models import save_wav2vec2, tokenizer

ENGINE = TransformersEngine(on_this_machine())
RATE = 16_000


@pytest.fixture(scope="module", params=["layer", "group"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of either family: those of "group" take no mask, so that padding would change what they hear."""
    return save_wav2vec2(tmp_path_factory.mktemp("wav2vec2"), norm=request.param)


@pytest.fixture(scope="module")
def runner(folder: Path) -> Any:
    return ENGINE.load_model("tiny", task="asr", path=folder)


@pytest.fixture(scope="module")
def short_windows(runner: CtcRunner) -> CtcRunner:
    """The same model in windows of 1.2 s, so that seconds of noise are many windows."""
    return CtcRunner("tiny", runner.model, runner.tokenizer, runner.extractor, window_s=1.2)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return pipeline("automatic-speech-recognition", model=str(folder), device="cpu", dtype="float32")


def noise(seconds: float, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    loudness = np.repeat(random.uniform(0.05, 1, int(seconds * 10) + 1), RATE // 10)[: int(seconds * RATE)]
    return (loudness * random.uniform(-1, 1, len(loudness))).astype(np.float32)


def heard(runner: CtcRunner, samples: Any, **options: Any) -> dict[str, Any]:
    return ENGINE.infer(runner, {"audio": samples}, options)


def test_a_ctc_model_is_run_by_the_ctc_runner(runner: Any) -> None:
    assert isinstance(runner, CtcRunner)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 3.21])
def test_a_short_recording_is_spelled_as_by_the_librarys_pipeline(runner: Any, theirs: Any, seconds: float) -> None:
    samples = noise(seconds)
    result = heard(runner, samples)
    assert result["text"] == theirs(samples)["text"]
    assert len(result["text"]) > 3
    assert (result["windows"], result["language"]) == (1, None)


@pytest.mark.parametrize("seconds", [1.2, 1.21, 2.0, 2.03, 5.0, 7.77])
def test_a_long_recording_is_spelled_as_by_the_librarys_pipeline(
    short_windows: CtcRunner, theirs: Any, seconds: float
) -> None:
    samples = noise(seconds)
    result = heard(short_windows, samples, timestamps="word")
    expected = theirs(samples, chunk_length_s=1.2, return_timestamps="word")
    assert result["text"] == expected["text"]
    assert result["windows"] == 1 + max(0, -(-round((seconds - 1.2) * RATE) // round(0.8 * RATE)))
    assert [(word["word"], word["start"], word["end"]) for word in result["words"]] == [
        (chunk["text"], round(chunk["timestamp"][0], 2), round(min(chunk["timestamp"][1], seconds), 2))
        for chunk in expected["chunks"]
    ]


def test_recordings_of_a_batch_are_spelled_as_each_of_them_alone(short_windows: CtcRunner) -> None:
    recordings = [noise(seconds, seed) for seed, seconds in enumerate((3.0, 0.7, 2.5, 3.0, 0.9))]
    options = [{"timestamps": kind} for kind in ("word", "segment", False, "word", "segment")]
    together = ENGINE.infer_batch(short_windows, [{"audio": one} for one in recordings], options)
    assert together == [heard(short_windows, one, **its) for one, its in zip(recordings, options, strict=True)]


def test_windows_that_do_not_fit_together_are_heard_in_halves_from_then_on(
    short_windows: CtcRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = noise(5.0)
    expected = heard(short_windows, long)
    passes: list[int] = []

    def small(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        passes.append(len(inputs[module.main_input_name]))
        if passes[-1] > 1:
            raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(short_windows, "windows", ShrinkOnOutOfMemory("tiny", most=4 * short_windows.window))
    hook = short_windows.model.register_forward_pre_hook(small, with_kwargs=True)
    try:
        assert heard(short_windows, long) == expected
        assert passes[:3] == [1, 4, 2]
        assert set(passes[3:]) == {1}
        passes.clear()
        heard(short_windows, long)
        assert set(passes) == {1}
    finally:
        hook.remove()


def test_words_and_segments_say_when_they_were_said(short_windows: CtcRunner) -> None:
    result = heard(short_windows, noise(5.0), timestamps="word")
    assert " ".join(word["word"] for word in result["words"]) == result["text"]
    times = [time for word in result["words"] for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert times[-1] <= 5.0
    assert " ".join(segment["text"] for segment in result["segments"]) == result["text"]
    assert result["segments"][0]["start"] == times[0]
    assert result["segments"][-1]["end"] == times[-1]


def test_timestamps_may_be_left_out(runner: Any) -> None:
    result = heard(runner, noise(1.0), timestamps=False)
    assert result["segments"] == []
    assert "words" not in result


@pytest.mark.parametrize("seconds", [0.001, 0.02])
def test_a_recording_shorter_than_a_frame_has_an_answer(runner: Any, seconds: float) -> None:
    assert heard(runner, noise(seconds))["duration_s"] == pytest.approx(seconds, abs=0.001)


@pytest.mark.parametrize(
    "options",
    [{"language": "en"}, {"translate": True}, {"max_new_tokens": 5}, {"temperature": 0.5}, {"num_beams": 2}],
)
def test_what_a_ctc_model_cannot_do_is_refused_by_name(runner: Any, options: dict[str, Any]) -> None:
    bad, good = ENGINE.infer_batch(runner, [{"audio": noise(0.5)}] * 2, [options, {}])
    assert isinstance(bad, InvalidOption)
    assert bad.message == (
        f"options.{next(iter(options))}: model tiny transcribes by CTC, in the one language it was trained on; "
        "leave it out (this model takes timestamps)"
    )
    assert isinstance(good, dict)


def test_not_translating_is_what_it_does_anyway(runner: Any) -> None:
    assert heard(runner, noise(0.5), translate=False)["text"]


def test_a_tokenizer_that_tells_no_times_gives_one_segment_and_refuses_words(runner: CtcRunner) -> None:
    other = CtcRunner("tiny", runner.model, tokenizer(chat=False), runner.extractor)
    result = heard(other, noise(1.0))
    assert result["segments"] == [{"start": 0.0, "end": 1.0, "text": result["text"]}]
    [bad] = ENGINE.infer_batch(other, [{"audio": noise(0.5)}], [{"timestamps": "word"}])
    assert isinstance(bad, InvalidOption)
    assert "the tokenizer of model tiny does not tell when a word was said" in bad.message
