"""Questions about videos: which frames a vision-language model sees, and in which of its ways."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from engines.transformers.engine import TransformersEngine
from engines.transformers.vlm import (
    VideoDescriptionRunner,
    VisionLanguageRunner,
    metadata_of,
    takes_videos,
)
from handlers.errors import InferenceError, InvalidInput
from tests.device import on_this_machine
from tests.models.vlm import WEIGHTS as TINY_VLM
from tests.models.vlm.drawings import draw
from tests.unit.engines.tiny_vlms import CHAT_TEMPLATE, FramesAsPatches, make_qwen_for_videos

ENGINE = TransformersEngine(on_this_machine())


@pytest.fixture(scope="module")
def vlm() -> Any:
    return ENGINE.load_model("tiny-vlm", task="video-analysis", path=TINY_VLM)


def clip(count: int, *, seed: int = 0, **more: Any) -> dict[str, Any]:
    frames = np.random.default_rng(seed).integers(0, 256, (count, 40, 48, 3), np.uint8)
    times = [index / 2 for index in range(count)]
    return {"frames": frames, "frame_times_s": times, "duration_s": count / 2, **more}


def drawing(count: int, prompt: str | None, *, seed: int = 0) -> tuple[Any, dict[str, Any]]:
    """Return a drawing, and the inputs of a video of `count` frames that shows it all the time."""
    drawn = draw(random.Random(seed))
    frames = np.stack([np.asarray(drawn.image)] * count)
    asked = {} if prompt is None else {"prompt": prompt}
    return drawn, {**clip(count), "frames": frames, **asked}


@pytest.mark.parametrize("kind", ["color", "shape", "count"])
def test_a_vision_language_model_answers_about_a_video(vlm: Any, kind: str) -> None:
    prompts = {
        "color": "What color is the shape?",
        "shape": "What shape is it?",
        "count": "Count the shapes.",
    }
    for seed in range(4):
        drawn, inputs = drawing(1, prompts[kind], seed=seed)
        outcome = ENGINE.infer(vlm, inputs, {})
        assert outcome["generated_text"].strip() == drawn.answer(kind)
        assert outcome["frame_times_s"] == [0.0]
        assert outcome["duration_s"] == 0.5
        assert outcome["finish_reason"] == "stop"


def test_words_about_several_frames_are_those_of_the_librarys_own_generate(vlm: Any) -> None:
    inputs = clip(4, prompt="What is in the image?")
    outcome = ENGINE.infer(vlm, inputs, {"max_new_tokens": 6})
    content = [{"type": "image", "image": frame} for frame in inputs["frames"]]
    encoded = vlm.processor.apply_chat_template(
        [{"role": "user", "content": [*content, {"type": "text", "text": inputs["prompt"]}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    found = vlm.model.generate(**encoded.to(vlm.model.device), do_sample=False, max_new_tokens=6)
    text = vlm.processor.decode(found[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    assert outcome["generated_text"].strip() == text.strip()
    assert outcome["frame_times_s"] == inputs["frame_times_s"]


def test_a_model_sees_no_more_frames_than_its_context_has_room_for(vlm: Any) -> None:
    inputs = clip(200, prompt="What is in the image?")
    outcome = ENGINE.infer(vlm, inputs, {"max_new_tokens": 5})
    seen = len(outcome["frame_times_s"])
    per_frame = (outcome["prompt_tokens"] - 10) // seen
    assert vlm.context - per_frame < outcome["prompt_tokens"] + 5 <= vlm.context
    fewer = ENGINE.infer(vlm, inputs, {})
    assert 0 < len(fewer["frame_times_s"]) < seen
    distances = np.diff(outcome["frame_times_s"])
    assert distances.max() - distances.min() <= 0.5


def qwen_with(video_processor: Any) -> Any:
    model, processor = make_qwen_for_videos(video_processor)
    asked = VisionLanguageRunner("qwen", model.eval(), processor)  # type: ignore[no-untyped-call]
    asked.configure(on_this_machine())
    return VideoDescriptionRunner(asked)


@pytest.fixture(scope="module", params=["of our own", "the library's"])
def qwen(request: pytest.FixtureRequest) -> Any:
    """A model that takes videos; the library's own processor of them is there where torchvision is."""
    if request.param == "of our own":
        return qwen_with(FramesAsPatches())
    pytest.importorskip("torchvision")
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    size = {"shortest_edge": 64, "longest_edge": 4096}
    return qwen_with(Qwen2VLVideoProcessor(patch_size=4, merge_size=2, temporal_patch_size=2, size=size))


@pytest.mark.parametrize("count", [4, 7])
def test_a_model_with_a_way_for_videos_sees_one_and_answers_as_the_librarys_own_generate(qwen: Any, count: int) -> None:
    inputs = clip(count, prompt="a b c")
    outcome = ENGINE.infer(qwen, inputs, {"max_new_tokens": 12})
    content = [{"type": "video", "video": inputs["frames"]}, {"type": "text", "text": inputs["prompt"]}]
    encoded = qwen.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"do_sample_frames": False},
    )
    assert "pixel_values_videos" in encoded
    found = qwen.model.generate(**encoded.to(qwen.model.device), do_sample=False, max_new_tokens=12)
    text = qwen.processor.decode(found[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    assert outcome["generated_text"].strip() == text.strip()
    assert outcome["prompt_tokens"] == encoded["input_ids"].shape[1]
    assert outcome["frame_times_s"] == inputs["frame_times_s"]


def test_videos_of_different_lengths_in_one_batch_get_the_words_they_get_alone(qwen: Any) -> None:
    inputs = [clip(count, seed=count, prompt="a b c"[:count]) for count in (1, 4, 6)]
    options = [{"max_new_tokens": 8}] * 3
    together = ENGINE.infer_batch(qwen, inputs, options)
    assert together == [ENGINE.infer(qwen, one, its) for one, its in zip(inputs, options, strict=True)]


def test_a_video_has_no_more_frames_than_the_context_has_room_for(qwen: Any) -> None:
    outcome = ENGINE.infer(qwen, clip(64, prompt="a b"), {"max_new_tokens": 5})
    assert outcome["prompt_tokens"] + 5 <= qwen.context
    per_pair = 30
    assert outcome["prompt_tokens"] + 5 + per_pair > qwen.context
    assert len(outcome["frame_times_s"]) == 2 * (outcome["prompt_tokens"] // per_pair)


def test_processors_are_told_when_the_frames_were_however_they_were_picked() -> None:
    from transformers.video_utils import VideoMetadata

    inputs = {"frames": np.zeros((4, 8, 8, 3)), "frame_times_s": [0.0, 0.04, 2.5, 9.987], "duration_s": 10.0}
    told = VideoMetadata(**metadata_of(inputs, [0, 2, 3]))
    assert told.timestamps == [0.0, 2.5, 9.987]
    assert told.sampled_fps == pytest.approx(0.3)
    assert metadata_of({**inputs, "duration_s": 9.9}, [3])["total_num_frames"] == 9988


def test_a_template_without_a_place_for_videos_has_the_frames_as_images(vlm: Any) -> None:
    _, processor = make_qwen_for_videos(FramesAsPatches())
    assert takes_videos(processor)
    assert not takes_videos(vlm.processor)
    for template in (CHAT_TEMPLATE, "{{ raise_exception('no videos here') }}", None):
        processor.chat_template = template
        assert not takes_videos(processor)


def test_of_a_batch_of_three_without_one_prompt_the_others_are_answered(vlm: Any) -> None:
    first, asked = drawing(1, "What color is it?", seed=1)
    _, silent = drawing(1, None)
    last, also_asked = drawing(1, "Describe the image.", seed=2)
    outcomes = ENGINE.infer_batch(vlm, [asked, silent, also_asked], [{}] * 3)
    assert isinstance(outcomes[1], InvalidInput)
    assert outcomes[1].message.startswith("data.prompt is required: model tiny-vlm answers in text")
    texts = [one["generated_text"].strip() for one in outcomes if not isinstance(one, InferenceError)]
    assert texts == [first.answer("color"), last.answer("description")]
