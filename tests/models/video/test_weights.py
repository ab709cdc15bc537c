"""The trained weights of this folder, run by our engine: right by a margin, and as the library runs them."""

from __future__ import annotations

import itertools
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from engines.transformers.engine import TransformersEngine
from handlers.errors import InferenceError, InvalidInput
from handlers.video_analysis import VideoAnalysisHandler
from tests.containers import encoded_video, with_display_matrix
from tests.device import on_this_machine
from tests.models.video import WEIGHTS
from tests.models.video.clips import DIRECTIONS, moving_square

ENGINE = TransformersEngine(on_this_machine())
HANDLER = VideoAnalysisHandler()
SEED = 424_242
ITEMS = 60


@pytest.fixture(scope="module")
def runner() -> Any:
    return ENGINE.load_model("tiny-video", task="video-analysis", path=WEIGHTS)


def held_out(count: int, *, frames: int = 20, size: int = 96) -> list[tuple[str, bytes]]:
    """Return `count` mp4 files of clips that training never had, each direction in turn."""
    rng = random.Random(SEED)
    directions = list(itertools.islice(itertools.cycle(DIRECTIONS), count))
    return [
        (direction, encoded_video(moving_square(direction, rng, frames=frames, size=size))) for direction in directions
    ]


def analysed(runner: Any, *videos: Any, **options: Any) -> list[dict[str, Any]]:
    inputs = [HANDLER.preprocess({"video": video}, options) for video in videos]
    raw = ENGINE.infer_batch(runner, inputs, [options] * len(inputs))
    results = [HANDLER.postprocess(one, {}) for one in raw if not isinstance(one, InferenceError)]
    assert len(results) == len(inputs), raw
    return results


def test_held_out_clips_are_recognised_by_a_margin(runner: Any) -> None:
    directions, videos = zip(*held_out(ITEMS), strict=True)
    found = [result["labels"][0]["label"] for result in analysed(runner, *videos)]
    wrong = [pair for pair in zip(directions, found, strict=True) if pair[0] != pair[1]]
    assert len(wrong) <= 0.05 * ITEMS, wrong


def test_the_result_tells_which_frames_the_model_saw(runner: Any) -> None:
    [(_, video)] = held_out(1)
    [result] = analysed(runner, video)
    # The handler takes frames 0, 1, 3, 4, 5, 6, 8, ... (16 of 20), and the model wants 8 of these.
    assert result["frame_times"] == [0.1, 0.4, 0.6, 0.9, 1.1, 1.4, 1.6, 1.9]
    assert result["metadata"] == {"duration_s": 2.0}
    [result] = analysed(runner, video, every_s=0.5)
    assert result["frame_times"] == [0.0, 0.5, 1.0, 1.5]


def test_labels_and_scores_are_those_of_the_librarys_pipeline(runner: Any, tmp_path: Path) -> None:
    from transformers import pipeline

    if find_spec("torchvision") and not find_spec("torchcodec"):
        pytest.skip("with torchvision alone the pipeline reads no videos")
    library: Any = pipeline("video-classification", model=str(WEIGHTS), dtype="float32", device="cpu")
    # The pipeline takes the first 8 frames, so the clips have no more.
    videos = [video for _, video in held_out(len(DIRECTIONS), frames=8)]
    for video, result in zip(videos, analysed(runner, *videos), strict=True):
        file = tmp_path / "clip.mp4"
        file.write_bytes(video)
        expected = library(str(file))
        assert [one["label"] for one in result["labels"]] == [one["label"] for one in expected]
        scores = [one["score"] for one in result["labels"]]
        assert scores == pytest.approx([one["score"] for one in expected], abs=1e-5)


def test_a_video_turned_by_its_metadata_is_seen_turned(runner: Any) -> None:
    [_, (direction, video)] = held_out(2)
    assert direction == "right"
    quarter_turn = with_display_matrix(video, 0, 1, -1, 0)
    mirrored = with_display_matrix(video, -1, 0, 0, 1)
    found = [result["labels"][0]["label"] for result in analysed(runner, video, quarter_turn, mirrored)]
    assert found == ["right", "down", "left"]


def test_an_array_of_frames_is_taken_as_it_is(runner: Any) -> None:
    clip = moving_square("up", random.Random(SEED), frames=8)
    [result] = analysed(runner, clip, top_k=1)
    assert [one["label"] for one in result["labels"]] == ["up"]
    assert result["frame_times"] == [index / 25 for index in range(8)]


def test_a_prompt_is_refused_by_a_model_that_gives_labels(runner: Any) -> None:
    [(_, video)] = held_out(1)
    inputs = HANDLER.preprocess({"video": video, "prompt": "What happens?"}, {})
    [outcome] = ENGINE.infer_batch(runner, [inputs], [{}])
    assert isinstance(outcome, InvalidInput)
    assert outcome.message == ("data.prompt is given, but model tiny-video gives labels only; leave it out")


def test_of_a_batch_of_three_with_one_bad_input_the_others_are_answered(runner: Any) -> None:
    videos = held_out(3)
    inputs = [HANDLER.preprocess({"video": video}, {}) for _, video in videos]
    inputs[1] = {**inputs[1], "frames": inputs[1]["frames"][:0]}
    outcomes = ENGINE.infer_batch(runner, inputs, [{}] * 3)
    assert isinstance(outcomes[1], InferenceError)
    for position in (0, 2):
        outcome = outcomes[position]
        assert isinstance(outcome, dict)
        assert outcome["labels"][0]["label"] == videos[position][0]


def test_the_weights_are_small() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 2_000_000
