"""audio-classification and video-analysis on tiny random models: rates, lengths, batches, several labels, words."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEImageProcessorPil,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)

from engines.transformers.classification import evenly
from engines.transformers.device import to_model
from engines.transformers.engine import TransformersEngine
from handlers.errors import ModelLoadFailed
from tests.device import on_this_machine
from tests.unit.engines.tiny_models import save_llama

ENGINE = TransformersEngine(on_this_machine())

KINDS = ("dog", "cat", "rain")

LABELS: dict[str, Any] = {
    "id2label": dict(enumerate(KINDS)),
    "label2id": {kind: index for index, kind in enumerate(KINDS)},
}

RATE = 8_000


def save_wav2vec2(folder: Path, **more: Any) -> Path:
    """Save an audio classifier that hears 8 kHz, and as much of it as there is."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(16, 16),
        conv_stride=(5, 4),
        conv_kernel=(10, 8),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        initializer_range=0.5,
        **LABELS,
        **more,
    )
    model = Wav2Vec2ForSequenceClassification(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(folder)  # type: ignore[no-untyped-call]
    return folder


def save_ast(folder: Path, **extractor: Any) -> Path:
    """Save an audio spectrogram transformer that hears 2 s at 16 kHz."""
    torch.manual_seed(0)
    config = ASTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_length=200,
        num_mel_bins=32,
        initializer_range=0.5,
        **LABELS,
    )
    ASTForAudioClassification(config).save_pretrained(folder)
    made: Any = ASTFeatureExtractor(max_length=200, num_mel_bins=32, **extractor)  # type: ignore[no-untyped-call]
    made.save_pretrained(folder)
    return folder


def save_timesformer(folder: Path) -> Path:
    """Save a video classifier of 4 frames."""
    torch.manual_seed(0)
    config = TimesformerConfig(
        image_size=32,
        patch_size=16,
        num_frames=4,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
        **LABELS,
    )
    TimesformerForVideoClassification(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    size = {"height": 32, "width": 32}
    VideoMAEImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wav2vec2(tmp_path_factory.mktemp("wav2vec2"))


@pytest.fixture(scope="module")
def timesformer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = save_timesformer(tmp_path_factory.mktemp("timesformer"))
    return ENGINE.load_model("timesformer", task="video-analysis", path=path)


def sound(seconds: float, seed: int = 0) -> dict[str, Any]:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * 16_000)).astype(np.float32)
    return {"audio": samples, "sampling_rate": 16_000, "duration_s": seconds}


def clip(count: int, *, seed: int = 0, **more: Any) -> dict[str, Any]:
    frames = np.random.default_rng(seed).integers(0, 256, (count, 40, 48, 3), np.uint8)
    times = [index / 2 for index in range(count)]
    return {"frames": frames, "frame_times_s": times, "duration_s": count / 2, **more}


def scores(outcome: Any) -> dict[str, float]:
    assert isinstance(outcome, dict), outcome
    return {one["label"]: one["score"] for one in outcome["labels"]}


def test_a_long_recording_gives_the_mean_of_its_windows(wav2vec2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.transformers.classification._WINDOW_S", 1.0)
    runner: Any = ENGINE.load_model("wav2vec2", task="audio-classification", path=wav2vec2)
    whole = sound(3.0)
    parts = [
        {**whole, "audio": whole["audio"][start : start + 16_000], "duration_s": 1.0}
        for start in range(0, 48_000, 16_000)
    ]
    together, *each = runner.run([whole, *parts], [{"top_k": 0}] * 4)
    for kind in KINDS:
        mean = np.mean([scores(one)[kind] for one in each])
        assert scores(together)[kind] == pytest.approx(float(mean), abs=0.02)
    assert (together["windows"], together["heard_s"]) == (3, 3.0)


def test_recordings_are_resampled_to_the_rate_of_the_model(wav2vec2: Path) -> None:
    from transformers import pipeline

    library: Any = pipeline("audio-classification", model=str(wav2vec2), dtype="float32", device="cpu")
    runner = ENGINE.load_model("wav2vec2", task="audio-classification", path=wav2vec2)
    one = sound(0.7)
    expected = library(soxr.resample(one["audio"], 16_000, RATE))
    found = scores(ENGINE.infer(runner, one, {}))
    assert found == pytest.approx({each["label"]: each["score"] for each in expected}, abs=1e-5)


def test_recordings_of_different_lengths_in_one_batch_get_what_they_get_alone(wav2vec2: Path) -> None:
    runner = ENGINE.load_model("wav2vec2", task="audio-classification", path=wav2vec2)
    inputs = [sound(seconds, seed) for seed, seconds in enumerate((0.5, 1.2, 0.5, 0.001))]
    together = ENGINE.infer_batch(runner, inputs, [{}] * 4)
    for one, outcome in zip(inputs, together, strict=True):
        assert scores(outcome) == pytest.approx(scores(ENGINE.infer(runner, one, {})), abs=1e-5)
        assert isinstance(outcome, dict)
        assert outcome["duration_s"] == one["duration_s"]


@pytest.mark.parametrize("extractor", [{}, {"do_normalize": False}])
@pytest.mark.parametrize("at_once_s", [100.0, 3.0, 0.1])
def test_filter_banks_of_several_recordings_are_those_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extractor: dict[str, bool], at_once_s: float
) -> None:
    monkeypatch.setattr("engines.transformers.classification._SOUND_AT_ONCE_S", at_once_s)
    path = save_ast(tmp_path, **extractor)
    runner: Any = ENGINE.load_model("ast", task="audio-classification", path=path)
    quiet = {**sound(1.0), "audio": np.zeros(16_000, np.float32)}
    inputs = [sound(0.5), sound(1.2, 1), quiet, sound(2.0, 2), sound(2.02, 3), sound(0.001, 4), sound(5.0, 5)]
    windows = [window for one in inputs for window in runner.split(one)[0]]
    assert len(windows) == len(inputs) + 3
    for window, features in zip(windows, runner.features(windows), strict=True):
        expected = runner.extractor(window, sampling_rate=16_000, return_tensors="pt")
        torch.testing.assert_close(features["input_values"], expected["input_values"], atol=1e-5, rtol=1e-5)
    for one, outcome in zip(inputs, ENGINE.infer_batch(runner, inputs, [{}] * len(inputs)), strict=True):
        assert scores(outcome) == pytest.approx(scores(ENGINE.infer(runner, one, {})), abs=1e-5)


def test_each_row_of_a_batch_keeps_its_own_number_of_labels(wav2vec2: Path) -> None:
    runner = ENGINE.load_model("wav2vec2", task="audio-classification", path=wav2vec2)
    outcomes = ENGINE.infer_batch(runner, [sound(0.5), sound(0.5, 1), sound(0.5, 2)], [{"top_k": 1}, {}, {"top_k": 2}])
    assert [len(scores(outcome)) for outcome in outcomes] == [1, 3, 2]


def test_scores_of_labels_that_may_be_right_together_do_not_sum_up(tmp_path: Path, wav2vec2: Path) -> None:
    path = save_wav2vec2(tmp_path, problem_type="multi_label_classification")
    several: Any = ENGINE.load_model("several", task="audio-classification", path=path)
    one = ENGINE.load_model("one", task="audio-classification", path=wav2vec2)
    exclusive = scores(ENGINE.infer(one, sound(0.5), {}))
    assert sum(exclusive.values()) == pytest.approx(1, abs=1e-5)
    (features,) = several.features(several.split(sound(0.5))[0])
    with torch.inference_mode():
        logits = several.model(**to_model(several.model, features)).logits[0]
    expected = dict(zip(KINDS, logits.sigmoid().tolist(), strict=True))
    assert scores(ENGINE.infer(several, sound(0.5), {})) == pytest.approx(expected, abs=1e-6)


def test_a_score_that_is_no_number_is_not_left_out(tmp_path: Path) -> None:
    path = save_wav2vec2(tmp_path, problem_type="multi_label_classification")
    runner: Any = ENGINE.load_model("broken", task="audio-classification", path=path)
    with torch.no_grad():
        runner.model.classifier.bias[0] = math.nan
    found = scores(ENGINE.infer(runner, sound(0.5), {"top_k": 1}))
    assert list(map(math.isnan, found.values())) == [True]


def test_labels_without_names_are_numbered(tmp_path: Path) -> None:
    path = save_wav2vec2(tmp_path)
    config = json.loads((path / "config.json").read_text())
    del config["id2label"], config["label2id"]
    (path / "config.json").write_text(json.dumps({**config, "num_labels": 3}))
    runner = ENGINE.load_model("nameless", task="audio-classification", path=path)
    assert set(scores(ENGINE.infer(runner, sound(0.5), {}))) == {"LABEL_0", "LABEL_1", "LABEL_2"}


@pytest.mark.parametrize(
    ("there", "wanted", "indices"),
    [(8, 8, list(range(8))), (16, 4, [2, 6, 10, 14]), (3, 6, [0, 0, 1, 1, 2, 2]), (5, 1, [2])],
)
def test_frames_are_picked_at_equal_distances(there: int, wanted: int, indices: list[int]) -> None:
    assert evenly(there, wanted) == indices


def test_a_model_sees_as_many_frames_as_it_takes_and_the_result_says_which(timesformer: Any) -> None:
    outcome = ENGINE.infer(timesformer, clip(16), {})
    assert outcome["frame_times_s"] == [1.0, 3.0, 5.0, 7.0]
    few = ENGINE.infer(timesformer, clip(2), {})
    assert few["frame_times_s"] == [0.0, 0.5]
    assert "frames_repeated" not in outcome
    assert few["frames_repeated"] == (
        "the model takes 4 frames and got 2 different ones, some of them several times; its labels are less reliable "
        "than those of more frames"
    )
    features = timesformer.processor(list(clip(16)["frames"][[2, 6, 10, 14]]), return_tensors="pt")
    with torch.inference_mode():
        expected = timesformer.model(**features.to(timesformer.model.device)).logits[0].softmax(-1).tolist()
    assert scores(outcome) == pytest.approx(dict(zip(KINDS, expected, strict=True)), abs=1e-5)


def test_videos_in_one_batch_get_what_they_get_alone(timesformer: Any) -> None:
    inputs = [clip(count, seed=count) for count in (16, 4, 2)]
    for one, outcome in zip(inputs, ENGINE.infer_batch(timesformer, inputs, [{}] * 3), strict=True):
        assert scores(outcome) == pytest.approx(scores(ENGINE.infer(timesformer, one, {})), abs=1e-5)


def test_a_model_of_another_kind_is_told_what_the_task_needs(tmp_path: Path) -> None:
    path = save_llama(tmp_path)
    with pytest.raises(ModelLoadFailed, match=r"needs an audio classifier \(AutoModelForAudioClassification\)"):
        ENGINE.load_model("llama", task="audio-classification", path=path)
    with pytest.raises(ModelLoadFailed, match="needs a video classifier or a vision-language model"):
        ENGINE.load_model("llama", task="video-analysis", path=path)


def test_a_video_model_without_its_image_processor_says_so(tmp_path: Path) -> None:
    path = save_timesformer(tmp_path)
    (path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelLoadFailed, match="has no image processor"):
        ENGINE.load_model("bare", task="video-analysis", path=path)
