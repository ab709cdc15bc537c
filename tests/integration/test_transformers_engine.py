"""The transformers engine on real weights: SmolLM2 answers, Whisper hears."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines.transformers.engine import TransformersEngine
from handlers.errors import InvalidInput, InvalidOption
from handlers.media import Media
from handlers.recording import AsrHandler
from tests.device import on_this_machine
from tests.recordings import Recording, encoded, normalized

ENGINE = TransformersEngine(on_this_machine())
QUESTIONS = [
    "What is the capital of France?",
    "Name three colours.",
    "Why is the sky blue? Answer in one sentence, and mention light, air and the sun in it, please.",
    "Hi!",
]


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Any:
    return ENGINE.load_model("smollm2", task="text-generation", path=smollm2_path)


@pytest.fixture(scope="module")
def whisper(whisper_tiny_path: Path) -> Any:
    return ENGINE.load_model("whisper-tiny.en", task="asr", path=whisper_tiny_path)


def heard(content: bytes) -> dict[str, Any]:
    return AsrHandler().preprocess({"audio": Media(content, "clip")}, {})


def clip_inputs(clips: tuple[Recording, ...]) -> list[dict[str, Any]]:
    return [heard(clip.path.read_bytes()) for clip in clips]


def letters(text: str) -> str:
    """Return the letters of `text` alone: "cold-hearted" and "coldhearted" are both right."""
    return normalized(text).replace(" ", "")


def word_errors(words: list[str], spoken: list[str]) -> int:
    """Return how many words must be added, dropped or replaced to make `spoken` of `words`."""
    distances = list(range(len(spoken) + 1))
    for count, word in enumerate(words, start=1):
        diagonal, distances[0] = distances[0], count
        for index, right in enumerate(spoken, start=1):
            changed = min(distances[index], distances[index - 1]) + 1
            diagonal, distances[index] = distances[index], min(diagonal + (word != right), changed)
    return distances[-1]


def test_the_capital_of_france_is_paris(smollm2: Any) -> None:
    result = ENGINE.infer(smollm2, {"inputs": QUESTIONS[0]}, {"max_new_tokens": 24})
    assert "Paris" in result["generated_text"]
    assert result["finish_reason"] == "stop"
    assert result["prompt_tokens"] > 20  # the chat template is around it
    assert 0 < result["completion_tokens"] < 24


def test_a_conversation_is_answered_to_its_last_message(smollm2: Any) -> None:
    messages = [
        {"role": "user", "content": "What is the capital of Italy?"},
        {"role": "assistant", "content": "The capital of Italy is Rome."},
        {"role": "user", "content": "And of France?"},
    ]
    result = ENGINE.infer(smollm2, {"messages": messages}, {"max_new_tokens": 24})
    assert "Paris" in result["generated_text"]


def test_batched_greedy_answers_are_those_of_generate_one_by_one(smollm2: Any) -> None:
    budgets = [24, 6, 16, 12]
    outcomes = ENGINE.infer_batch(
        smollm2,
        [{"inputs": question} for question in QUESTIONS],
        [{"max_new_tokens": budget} for budget in budgets],
    )
    for question, budget, outcome in zip(QUESTIONS, budgets, outcomes, strict=True):
        prompt = smollm2.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            found = smollm2.model.generate(**prompt, do_sample=False, max_new_tokens=budget)
        new = found[0, prompt["input_ids"].shape[1] :]
        assert isinstance(outcome, dict)
        assert outcome["generated_text"] == smollm2.tokenizer.decode(new, skip_special_tokens=True)
        assert outcome["completion_tokens"] == int((new != 2).sum())


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(smollm2: Any) -> None:
    [outcome] = ENGINE.infer_batch(smollm2, [{"inputs": "word " * 9000}], [{}])
    assert isinstance(outcome, InvalidInput)
    assert "model smollm2 takes 8192" in outcome.message


def test_clips_are_heard_word_for_word(whisper: Any, librivox_clips: tuple[Recording, ...]) -> None:
    outcomes = ENGINE.infer_batch(whisper, clip_inputs(librivox_clips), [{"timestamps": False}] * 2)
    for clip, outcome in zip(librivox_clips, outcomes, strict=True):
        assert isinstance(outcome, dict)
        assert normalized(outcome["text"]) == clip.transcript
        assert outcome["language"] == "en"
        assert outcome["segments"] == []
        assert outcome["finish_reason"] == "stop"


def test_a_text_that_max_new_tokens_cuts_says_so(whisper: Any, librivox_clips: tuple[Recording, ...]) -> None:
    for options in ({}, {"timestamps": False}, {"num_beams": 2}):
        inputs = clip_inputs(librivox_clips)[0]
        cut = ENGINE.infer(whisper, inputs, {**options, "max_new_tokens": 3})
        assert cut["finish_reason"] == "length"
        assert ENGINE.infer(whisper, inputs, options)["finish_reason"] == "stop"


@pytest.mark.parametrize(("file_format", "rate", "channels"), [("WAV", 8000, 1), ("OGG", 48000, 2), ("MP3", 44100, 2)])
def test_the_same_clip_in_another_format_gives_the_same_words(
    whisper: Any, librivox_clips: tuple[Recording, ...], file_format: str, rate: int, channels: int
) -> None:
    content = encoded(librivox_clips[0], file_format, rate=rate, channels=channels)
    result = ENGINE.infer(whisper, heard(content), {})
    assert normalized(result["text"]) == librivox_clips[0].transcript


def test_segments_hold_the_text_and_lie_within_the_recording(
    whisper: Any, librivox_clips: tuple[Recording, ...]
) -> None:
    inputs = clip_inputs(librivox_clips)[1]
    result = ENGINE.infer(whisper, inputs, {})
    assert letters(result["text"]) == letters(librivox_clips[1].transcript)
    assert " ".join(segment["text"] for segment in result["segments"]) == result["text"]
    times = [time for segment in result["segments"] for time in (segment["start"], segment["end"])]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= inputs["duration_s"]
    assert times[-1] > inputs["duration_s"] - 1.0


def test_words_come_in_order_with_their_times_and_make_up_the_text(
    whisper: Any, librivox_clips: tuple[Recording, ...]
) -> None:
    before = whisper.model.config._attn_implementation
    inputs = clip_inputs(librivox_clips)
    outcomes = ENGINE.infer_batch(whisper, inputs, [{"timestamps": "word"}] * 2)
    for one, outcome in zip(inputs, outcomes, strict=True):
        assert isinstance(outcome, dict)
        words = outcome["words"]
        assert " ".join(word["word"] for word in words) == outcome["text"]
        times = [time for word in words for time in (word["start"], word["end"])]
        assert times == sorted(times)
        assert times[-1] <= one["duration_s"]
    assert whisper.model.config._attn_implementation == before


def test_a_batch_of_clips_gives_what_each_gives_alone(whisper: Any, librivox_clips: tuple[Recording, ...]) -> None:
    inputs = [*clip_inputs(librivox_clips), *clip_inputs(librivox_clips)]
    together = ENGINE.infer_batch(whisper, inputs, [{}] * 4)
    assert together == [ENGINE.infer(whisper, one, {}) for one in inputs]


def test_a_clip_gives_the_tokens_of_the_librarys_own_generate(
    whisper: Any, librivox_clips: tuple[Recording, ...]
) -> None:
    inputs = clip_inputs(librivox_clips)[1]
    features = whisper.extractor(inputs["audio"], sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        found = whisper.model.generate(features["input_features"], return_timestamps=True)
    text = whisper.tokenizer.decode(found[0], skip_special_tokens=True)
    assert ENGINE.infer(whisper, inputs, {})["text"] == text.strip()


def test_a_recording_over_30_s_comes_back_whole_and_in_order(
    whisper: Any, librivox_clips: tuple[Recording, ...]
) -> None:
    pause = np.zeros(8000, np.float32)
    parts: list[Any] = []
    said: list[str] = []
    while sum(map(len, parts)) < 65 * 16000:
        clip = librivox_clips[len(said) % 2]
        parts += [heard(clip.path.read_bytes())["audio"], pause]
        said.append(clip.transcript)
    audio = np.concatenate(parts)
    result = ENGINE.infer(whisper, {"audio": audio, "duration_s": len(audio) / 16000}, {})
    # The smallest model misspells a rare word of a long recording now and then, but it drops and swaps nothing.
    landmarks = re.compile(r"himself|rather selfish")
    assert landmarks.findall(normalized(result["text"])) == landmarks.findall(" ".join(said))
    spoken = " ".join(said).replace("cold hearted", "coldhearted").split()
    words = normalized(result["text"]).replace("cold hearted", "coldhearted").split()
    assert word_errors(words, spoken) < 0.15 * len(spoken)
    assert result["windows"] == 3
    assert result["duration_s"] >= 65
    starts = [segment["start"] for segment in result["segments"]]
    assert starts == sorted(starts)
    assert starts[-1] > 58


def test_a_recording_whose_windows_do_not_fit_the_memory_together_is_heard_all_the_same(
    whisper: Any, librivox_clips: tuple[Recording, ...]
) -> None:
    clips = [one["audio"] for one in clip_inputs(librivox_clips)]
    audio = np.concatenate([*clips, *clips, *clips, *clips])
    expected = ENGINE.infer(whisper, {"audio": audio}, {})
    passes: list[int] = []

    def small(encoder: Any, args: tuple[Any, ...]) -> None:
        passes.append(len(args[0]))
        if passes[-1] > 1:
            raise torch.OutOfMemoryError("no room")

    room = whisper.windows.most
    hook = whisper.model.get_encoder().register_forward_pre_hook(small)
    try:
        assert ENGINE.infer(whisper, {"audio": audio}, {}) == expected
        assert max(passes) == expected["windows"] > 1
        passes.clear()
        ENGINE.infer(whisper, {"audio": audio}, {})
        assert set(passes) == {1}, "it was not remembered"
    finally:
        hook.remove()
        whisper.windows.most = room


def test_silence_is_no_text(whisper: Any) -> None:
    result = ENGINE.infer(whisper, {"audio": np.zeros(16000 * 40, np.float32)}, {})
    assert result["text"] == ""
    assert result["segments"] == []


def test_noise_ends_within_its_budget(whisper: Any) -> None:
    noise = np.random.default_rng(0).uniform(-0.8, 0.8, 16000 * 2).astype(np.float32)
    result = ENGINE.infer(whisper, {"audio": noise}, {"max_new_tokens": 8})
    assert len(result["text"].split()) <= 8


def test_an_english_only_model_refuses_other_languages_and_translation_but_not_its_neighbours(
    whisper: Any, librivox_clips: tuple[Recording, ...]
) -> None:
    inputs = [clip_inputs(librivox_clips)[0]] * 4
    options: list[dict[str, Any]] = [
        {"language": "fr"},
        {"translate": True},
        {"language": "English"},
        {"translate": False},
    ]
    french, translated, english, plain = ENGINE.infer_batch(whisper, inputs, options)
    assert isinstance(french, InvalidOption)
    assert french.message.startswith('options.language is "fr", but model whisper-tiny.en knows English only')
    assert isinstance(translated, InvalidOption)
    assert "options.translate is true" in translated.message
    assert isinstance(english, dict)
    assert english == plain


def test_a_model_freed_from_memory_is_gone(whisper_tiny_path: Path) -> None:
    import gc
    import weakref

    runner = ENGINE.load_model("whisper-tiny.en", task="asr", path=whisper_tiny_path)
    weights = weakref.ref(runner.model)
    assert ENGINE.model_bytes(runner) > 100_000_000
    assert ENGINE.unload_model(runner)
    gc.collect()
    assert weights() is None
