"""vlm on tiny random models of three kinds: prompts, images of any number and size, batches, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engines.transformers.engine import TransformersEngine
from engines.transformers.vlm import VisionLanguageRunner
from handlers.errors import InferenceError, InvalidInput, InvalidOption, ModelLoadFailed
from tests.device import on_this_machine
from tests.unit.engines.tiny_models import save_llama
from tests.unit.engines.tiny_vlms import CONTEXT, make_qwen, save_llava, save_llava_next

ENGINE = TransformersEngine(on_this_machine())
KINDS = ("llava", "llava-next", "qwen")
SIZES: tuple[tuple[tuple[int, int], ...], ...] = (
    ((40, 24),),
    ((20, 64), (64, 64)),
    ((24, 24),),
    ((64, 24), (24, 64), (32, 32)),
)
"""Widths and heights of the images of each input."""


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    def load(save: Callable[[Path], Path]) -> Any:
        path = save(tmp_path_factory.mktemp("vlm"))
        return ENGINE.load_model(save.__name__, task="vlm", path=path)

    model, processor = make_qwen()
    qwen = VisionLanguageRunner("qwen", model.eval(), processor)  # type: ignore[no-untyped-call]
    qwen.configure(on_this_machine())
    return {"llava": load(save_llava), "llava-next": load(save_llava_next), "qwen": qwen}


@pytest.fixture(scope="module")
def llava(runners: dict[str, Any]) -> Any:
    return runners["llava"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = save_llava(tmp_path_factory.mktemp("raw"), chat=False)
    return ENGINE.load_model("raw", task="vlm", path=folder)


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng((seed, *size)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def asked(*sizes: tuple[int, int], text: str = "a b c", seed: int = 0) -> dict[str, Any]:
    """Return the inputs of a question about images of these sizes."""
    content = [*({"type": "image"} for _ in sizes), {"type": "text", "text": text}]
    return {
        "images": [picture(size, seed) for size in sizes],
        "messages": [{"role": "user", "content": content}],
    }


def answer(runner: VisionLanguageRunner, inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
    return ENGINE.infer(runner, inputs, options)


def refusal(runner: VisionLanguageRunner, inputs: dict[str, Any], **options: Any) -> InferenceError:
    [outcome] = ENGINE.infer_batch(runner, [inputs], [options])
    assert isinstance(outcome, InferenceError)
    return outcome


def librarys_answer(runner: VisionLanguageRunner, inputs: dict[str, Any], **more: Any) -> str:
    """Return what the library's own processor and generate make of the same input."""
    images = iter(inputs["images"])
    messages = [
        {
            "role": message["role"],
            "content": [
                {"type": "image", "image": next(images)} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in inputs["messages"]
    ]
    encoded = runner.processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    encoded = encoded.to(runner.model.device)
    found = runner.model.generate(**encoded, do_sample=False, **more)  # type: ignore[operator]
    tokens = found[0, encoded["input_ids"].shape[1] :]
    text: str = runner.processor.decode(tokens, skip_special_tokens=True)
    return text.strip()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SIZES)
def test_greedy_answers_are_those_of_the_librarys_own_generate(
    runners: dict[str, Any], kind: str, sizes: tuple[tuple[int, int], ...]
) -> None:
    inputs = asked(*sizes)
    result = answer(runners[kind], inputs, max_new_tokens=12)
    assert result["generated_text"].strip() == librarys_answer(runners[kind], inputs, max_new_tokens=12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_different_numbers_and_sizes_of_images_gives_each_row_what_it_gets_alone(
    runners: dict[str, Any], kind: str
) -> None:
    inputs = [asked(*sizes, text=text) for sizes, text in zip(SIZES, ("a", "b c d e", "f", "g h"), strict=True)]
    options = [{"max_new_tokens": budget} for budget in (12, 4, 9, 6)]
    together = ENGINE.infer_batch(runners[kind], inputs, options)
    alone = [answer(runners[kind], one, **its) for one, its in zip(inputs, options, strict=True)]
    assert together == alone
    assert [one["completion_tokens"] for one in alone] == [12, 4, 9, 6]


@pytest.mark.parametrize("kind", KINDS)
def test_the_images_and_their_order_change_the_answer(runners: dict[str, Any], kind: str) -> None:
    inputs = asked((24, 24), (40, 40))
    first = answer(runners[kind], inputs, max_new_tokens=12)
    other = answer(runners[kind], asked((24, 24), (40, 40), seed=1), max_new_tokens=12)
    turned = answer(runners[kind], {**inputs, "images": inputs["images"][::-1]}, max_new_tokens=12)
    assert len({one["generated_text"] for one in (first, other, turned)}) == 3


def test_images_are_seen_where_the_conversation_names_them(llava: Any) -> None:
    image, text = {"type": "image"}, {"type": "text", "text": "a b"}
    inputs = {
        "images": [picture((24, 24)), picture((24, 24), seed=1)],
        "messages": [
            {"role": "user", "content": [text, image]},
            {"role": "assistant", "content": [text]},
            {"role": "user", "content": [image, text]},
        ],
    }
    result = answer(llava, inputs, max_new_tokens=12)
    assert result["generated_text"].strip() == librarys_answer(llava, inputs, max_new_tokens=12)
    assert result["prompt_tokens"] == 4 + 3 * 2 + 2 * 9


@pytest.mark.parametrize(("kind", "sizes"), [*((kind, SIZES[0]) for kind in KINDS), ("qwen", SIZES[1])])
def test_beam_search_is_the_librarys(runners: dict[str, Any], kind: str, sizes: tuple[tuple[int, int], ...]) -> None:
    inputs, beams = asked(*sizes), {"max_new_tokens": 8, "num_beams": 3}
    result = answer(runners[kind], inputs, **beams)
    assert result["generated_text"].strip() == librarys_answer(runners[kind], inputs, **beams)


@pytest.mark.parametrize("kind", ["llava", "llava-next"])
def test_beam_search_over_several_images_is_refused_where_the_library_would_mix_them_up(
    runners: dict[str, Any], kind: str
) -> None:
    error = refusal(runners[kind], asked(*SIZES[1]), num_beams=2)
    assert isinstance(error, InvalidOption)
    assert "options.num_beams above 1 takes one image" in error.message


def test_a_seed_repeats_the_answer_whoever_shares_the_batch(llava: Any) -> None:
    options = {"max_new_tokens": 12, "temperature": 1.5, "seed": 7}
    alone = answer(llava, asked((24, 24)), **options)
    neighbours = [asked((24, 24), (24, 24), text="x y z"), asked((24, 24)), asked((24, 24), seed=3)]
    many = ENGINE.infer_batch(llava, neighbours, [{"temperature": 1.0}, options, {"max_new_tokens": 2}])
    assert many[1] == alone
    assert alone != answer(llava, asked((24, 24)), **{**options, "seed": 8})


def test_a_stop_string_ends_the_answer(llava: Any) -> None:
    words = answer(llava, asked((24, 24)), max_new_tokens=12)["generated_text"].split()
    stopped = answer(llava, asked((24, 24)), max_new_tokens=12, stop=[words[4]])
    assert stopped["generated_text"].split() == words[: words.index(words[4])]
    assert stopped["finish_reason"] == "stop"


def test_a_bad_input_does_not_cost_its_neighbours_theirs(llava: Any) -> None:
    bad = asked((24, 24))
    bad["messages"][0]["role"] = "tool"
    first, wrong, last = ENGINE.infer_batch(llava, [asked((24, 24)), bad, asked((40, 24))], [{"max_new_tokens": 4}] * 3)
    assert isinstance(wrong, InvalidInput)
    assert "no tools here" in wrong.message
    assert first == answer(llava, asked((24, 24)), max_new_tokens=4)
    assert last == answer(llava, asked((40, 24)), max_new_tokens=4)


def test_a_text_with_the_models_own_mark_for_an_image_is_refused(llava: Any) -> None:
    mark = llava.processor.image_token
    told = refusal(llava, asked((24, 24), text=f"{mark} a b")).message
    assert f"the text holds {mark!r}, which model" in told
    assert "leave it out" in told


def test_images_count_in_the_prompt_and_in_the_context(llava: Any) -> None:
    assert answer(llava, asked((24, 24)), max_new_tokens=1)["prompt_tokens"] == 2 + 9 + 3
    many = asked(*[(24, 24)] * (CONTEXT // 9 + 1))
    assert f"takes {CONTEXT} of prompt and answer together" in refusal(llava, many).message


def test_max_length_counts_the_images(llava: Any) -> None:
    error = refusal(llava, asked((24, 24)), max_length=10)
    assert isinstance(error, InvalidOption)
    assert "the prompt alone has 14 tokens" in error.message


def test_a_picture_larger_than_any_processor_keeps_is_reduced_first(
    llava: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = asked((80, 48))
    halves = {**inputs, "images": [image.reduce(2) for image in inputs["images"]]}
    whole, half = (llava.prompt(its).extras["pixel_values"] for its in (inputs, halves))
    assert not torch.equal(whole, half)
    monkeypatch.setattr("engines.transformers.vlm._MOST_SEEN_PIXELS", 1000)
    assert torch.equal(llava.prompt(inputs).extras["pixel_values"], half)


def test_an_image_the_processor_cannot_take_is_the_callers_error(runners: dict[str, Any]) -> None:
    error = refusal(runners["qwen"], asked((2000, 4)))
    assert isinstance(error, InvalidInput)
    assert error.message.startswith("model qwen does not take these images: ")


def test_without_a_chat_template_the_images_go_before_the_prompt(raw: Any) -> None:
    inputs = asked((24, 24), (40, 40), text="a b")
    result = answer(raw, inputs, max_new_tokens=6)
    encoded = raw.processor(text="<image><image>a b", images=inputs["images"], return_tensors="pt")
    encoded = encoded.to(raw.model.device)
    found = raw.model.generate(**encoded, do_sample=False, max_new_tokens=6)[0, encoded["input_ids"].shape[1] :]
    assert result["generated_text"].strip() == raw.processor.decode(found, skip_special_tokens=True).strip()
    assert result["prompt_tokens"] == 2 * 9 + 2


def test_a_conversation_without_a_chat_template_is_refused_with_the_way_out(raw: Any) -> None:
    inputs = asked((24, 24))
    inputs["messages"] += [{"role": "assistant", "content": [{"type": "text", "text": "a"}]}] + inputs["messages"]
    error = refusal(raw, inputs)
    assert isinstance(error, InvalidInput)
    assert error.message == ("data.messages needs a chat template, which model raw lacks; send data.prompt")


def test_a_model_that_sees_nothing_is_refused_by_kind(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="this task needs a vision-language model"):
        ENGINE.load_model("text", task="vlm", path=save_llama(tmp_path))


def test_a_folder_without_an_image_processor_is_refused(tmp_path: Path) -> None:
    folder = save_llava(tmp_path)
    (folder / "processor_config.json").unlink()
    with pytest.raises(ModelLoadFailed, match="has no whole processor; register a folder"):
        ENGINE.load_model("half", task="vlm", path=folder)


def test_the_models_own_number_format_is_kept_for_pixels(llava: Any) -> None:
    prompt = llava.prompt(asked((24, 24)))
    assert prompt.extras["pixel_values"].dtype == torch.float32
    assert set(prompt.extras) == {"pixel_values"}
