"""The trained weights of this folder, run by our engine: right by a margin, and as the library runs them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from engines.transformers.engine import TransformersEngine
from handlers.errors import InferenceError, InvalidInput
from handlers.vlm import VlmHandler
from tests.device import on_this_machine
from tests.models.vlm import WEIGHTS
from tests.models.vlm.drawings import COLORS, QUESTIONS, SHAPES, Drawing, draw

ENGINE = TransformersEngine(on_this_machine())
HANDLER = VlmHandler()
HELD_OUT_SEED = 424_242
ITEMS = 80


@pytest.fixture(scope="module")
def runner() -> Any:
    return ENGINE.load_model("tiny-vlm", task="vlm", path=WEIGHTS)


def inputs(prompt: str, *images: Image.Image) -> dict[str, Any]:
    return HANDLER.preprocess({"images": list(images), "prompt": prompt}, {})


def ask(runner: Any, prompt: str, *images: Image.Image, **options: Any) -> str:
    raw = ENGINE.infer(runner, inputs(prompt, *images), options)
    text: str = HANDLER.postprocess(raw, {})["generated_text"].strip()
    return text


@pytest.mark.parametrize("kind", list(QUESTIONS))
def test_answers_about_held_out_drawings_are_right_by_a_margin(runner: Any, kind: str) -> None:
    rng = random.Random(HELD_OUT_SEED)
    drawings = [draw(rng, size=rng.randint(96, 320)) for _ in range(ITEMS)]
    asked = [inputs(rng.choice(QUESTIONS[kind]), drawing.image) for drawing in drawings]
    outcomes = ENGINE.infer_batch(runner, asked, [{}] * ITEMS)
    answers = [one["generated_text"].strip() for one in outcomes if not isinstance(one, InferenceError)]
    expected = [drawing.answer(kind) for drawing in drawings]
    right = sum(answer == wanted for answer, wanted in zip(answers, expected, strict=True))
    assert right / ITEMS > 0.95, [pair for pair in zip(answers, expected, strict=True) if len({*pair}) > 1]


def test_the_held_out_drawings_are_of_every_kind() -> None:
    rng = random.Random(HELD_OUT_SEED)
    drawings: list[Drawing] = [draw(rng) for _ in range(ITEMS)]
    assert {drawing.color for drawing in drawings} == set(COLORS)
    assert {drawing.shape for drawing in drawings} == set(SHAPES)
    assert {drawing.count for drawing in drawings} == {1, 2, 3, 4}


def test_a_drawing_made_by_hand_is_described() -> None:
    image = Image.new("RGB", (200, 200), (20, 20, 30))
    pen = ImageDraw.Draw(image)
    pen.ellipse((10, 10, 90, 90), fill="red")
    pen.ellipse((110, 110, 190, 190), fill="red")
    runner = ENGINE.load_model("tiny-vlm", task="vlm", path=WEIGHTS)
    assert ask(runner, "Describe the image.", image) == "two red circles"
    assert ask(runner, "how many shapes are there", image) == "two"


def test_the_answer_is_that_of_the_librarys_pipeline(runner: Any) -> None:
    from transformers import pipeline

    library: Any = pipeline("image-text-to-text", model=str(WEIGHTS), dtype="float32", device="cpu")
    rng = random.Random(HELD_OUT_SEED)
    for kind in QUESTIONS:
        drawing, question = draw(rng), QUESTIONS[kind][0]
        content = [{"type": "image", "image": drawing.image}, {"type": "text", "text": question}]
        [found] = library(
            text=[{"role": "user", "content": content}],
            return_full_text=False,
            generate_kwargs={"do_sample": False, "max_new_tokens": 8},
        )
        assert ask(runner, question, drawing.image, max_new_tokens=8) == found["generated_text"].strip()


def test_a_conversation_goes_on_about_the_same_drawing(runner: Any) -> None:
    drawing = draw(random.Random(5))
    messages: list[dict[str, Any]] = []
    for kind in ("color", "count", "shape"):
        messages.append({"role": "user", "content": QUESTIONS[kind][0]})
        asked = HANDLER.preprocess({"image": drawing.image, "messages": messages}, {})
        answer = ENGINE.infer(runner, asked, {})["generated_text"].strip()
        assert answer == drawing.answer(kind)
        messages.append({"role": "assistant", "content": answer})


def test_of_a_batch_of_three_with_one_bad_input_the_others_are_answered(runner: Any) -> None:
    rng = random.Random(6)
    first, last = draw(rng), draw(rng)
    too_long = inputs("shape " * 2000, first.image)
    outcomes = ENGINE.infer_batch(
        runner,
        [
            inputs("What color is it?", first.image),
            too_long,
            inputs("How many shapes are there?", last.image),
        ],
        [{}] * 3,
    )
    assert isinstance(outcomes[1], InvalidInput)
    texts = [one["generated_text"].strip() for one in outcomes if not isinstance(one, InferenceError)]
    assert texts == [first.answer("color"), last.answer("count")]


def test_the_weights_are_small() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 5_000_000
    assert {file.name for file in Path(__file__).parent.iterdir()} >= {"README.md", "train.py", "weights"}
