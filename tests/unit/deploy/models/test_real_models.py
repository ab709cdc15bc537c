"""The converted weights are right: they answer, transcribe and tokenize as the published models do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile

from deploy.models.preparation import problems
from tests.recordings import Recording, encoded, normalized

pytestmark = pytest.mark.weights


def test_smollm2_knows_the_capital_of_france(smollm2_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2_path)
    model: Any = AutoModelForCausalLM.from_pretrained(smollm2_path)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "The capital of France is Paris."
    assert tokens[-1] == tokenizer.eos_token_id


def test_smollm2_tokenizes_digits_one_by_one_and_gives_every_text_back(smollm2_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2_path)
    assert tokenizer.tokenize("2024") == ["2", "0", "2", "4"]
    assert tokenizer("<|im_start|>user")["input_ids"][0] == tokenizer.bos_token_id
    for text in ("Hello, World!  It's\n\n\ta test", "œuvre, 日本語, 🙂", "  leading spaces"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_whisper_transcribes_every_clip_word_for_word(
    whisper_tiny_path: Path, librivox_clips: tuple[Recording, ...]
) -> None:
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(whisper_tiny_path)  # type: ignore[no-untyped-call]
    model: Any = AutoModelForSpeechSeq2Seq.from_pretrained(whisper_tiny_path)
    assert len(librivox_clips) == 2
    for clip in librivox_clips:
        samples, rate = soundfile.read(clip.path, dtype="float32")
        inputs = processor(samples, sampling_rate=rate, return_tensors="pt")
        text = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0]
        assert normalized(text) == clip.transcript


def test_every_file_is_the_one_that_was_made(whisper_tiny_path: Path) -> None:
    assert problems(whisper_tiny_path, hashes=True) == []


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_recording_can_be_had_in_other_formats(
    tmp_path: Path, librivox_clips: tuple[Recording, ...], file_format: str
) -> None:
    path = tmp_path / "variant"
    path.write_bytes(encoded(librivox_clips[0], file_format, rate=44_100, channels=2))
    info = soundfile.info(path)
    assert (info.format, info.samplerate, info.channels) == (file_format, 44_100, 2)
    assert info.duration == pytest.approx(3.29, abs=0.1)
