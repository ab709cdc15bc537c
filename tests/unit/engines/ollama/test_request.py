"""Options and inputs of ours become the request that Ollama's API documents."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.ollama.request import OllamaModel, build
from handlers.errors import InvalidInput, InvalidOption
from handlers.options.options import options_of, validate_options

MODEL = OllamaModel("smollm2:135m")


def options_sent(**options: Any) -> dict[str, Any]:
    """Return the options of the request for `options` as a caller writes them."""
    checked = validate_options(options, task_options=options_of("text-generation"), engine="ollama")
    return body({"inputs": "hi"}, checked)["options"]  # type: ignore[no-any-return]


def body(inputs: dict[str, Any], options: dict[str, Any] | None = None) -> dict[str, Any]:
    sent: dict[str, Any] = json.loads(build(MODEL, inputs, options or {})[1])
    return sent


def image(width: int = 3, height: int = 2, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def decoded(encoded: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded, validate=True))))


def test_a_prompt_goes_to_generate_and_streams() -> None:
    path, body = build(MODEL, {"inputs": "hi"}, {})
    assert path == "/api/generate"
    assert json.loads(body) == {
        "model": "smollm2:135m",
        "stream": True,
        "prompt": "hi",
        "truncate": False,
        "options": {"repeat_penalty": 1.0},
    }


def test_messages_go_to_chat() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    path, body = build(MODEL, {"messages": messages}, {})
    assert path == "/api/chat"
    assert json.loads(body)["messages"] == messages


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"max_new_tokens": 7}, {"num_predict": 7}),
        ({"num_predict": 7}, {"num_predict": 7}),
        ({"max_length": 9}, {"num_predict": 9}),
        ({"max_length": 9, "max_new_tokens": 7}, {"num_predict": 7}),
        ({"repetition_penalty": 1.2}, {"repeat_penalty": 1.2}),
        ({"repeat_penalty": 1.2}, {"repeat_penalty": 1.2}),
        ({"do_sample": False, "temperature": 0.7}, {"temperature": 0}),
        ({"do_sample": True, "temperature": 0.7}, {"temperature": 0.7}),
        ({"do_sample": True}, {}),
        ({"seed": 2**31 + 5}, {"seed": 5}),
        ({"seed": 42}, {"seed": 42}),
        ({"seed": -1}, {"seed": -1}),
        ({"num_predict": -1}, {"num_predict": -1}),
        ({"max_new_tokens": -2, "max_length": 9}, {"num_predict": -2}),
        ({"stop": "END"}, {"stop": ["END"]}),
        ({"top_p": 0.5, "top_k": 3}, {"top_p": 0.5, "top_k": 3}),
        (
            {"num_ctx": 2048, "mirostat": 2, "mirostat_tau": 4},
            {"num_ctx": 2048, "mirostat": 2, "mirostat_tau": 4},
        ),
    ],
)
def test_options_are_sent_under_the_names_of_ollama(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert options_sent(**ours) == {"repeat_penalty": 1.0, **theirs}


BESIDE = ("format", "think", "keep_alive", "truncate")


def test_every_option_of_ollama_alone_reaches_it_as_it_is() -> None:
    table = {name: spec for name, spec in options_of("text-generation").items() if "ollama" in spec.engines}
    assert {"min_p", "num_gpu", "use_mmap", "mirostat"} <= table.keys()
    for name, spec in table.items():
        value = (spec.choices or (spec.maximum or spec.minimum,))[-1] if spec.kind != "boolean" else False
        if name not in BESIDE:
            assert options_sent(**{name: value})[name] == value


def test_the_penalty_of_the_model_goes_before_ours() -> None:
    sent = json.loads(build(OllamaModel("m", repeat_penalty=1.3), {"inputs": "hi"}, {})[1])
    assert sent["options"] == {"repeat_penalty": 1.3}


def test_a_prompt_is_cut_only_where_the_request_asks_for_it() -> None:
    assert body({"inputs": "hi"})["truncate"] is False
    assert body({"inputs": "hi"}, {"truncate": True})["truncate"] is True


@pytest.mark.parametrize("shift", [True, False])
def test_shift_is_the_same_for_all_requests_of_a_model(shift: bool) -> None:
    sent = json.loads(build(OllamaModel("m", shift=shift), {"inputs": "hi"}, {})[1])
    assert sent["shift"] is shift
    assert "shift" not in body({"inputs": "hi"})


@pytest.mark.parametrize("name", ["num_ctx", "num_keep", "repeat_last_n"])
def test_a_longer_context_than_the_model_was_made_for_is_refused(name: str) -> None:
    model = OllamaModel("m", most_context=2048)
    assert json.loads(build(model, {"inputs": "hi"}, {name: 2048})[1])["options"][name] == 2048
    with pytest.raises(InvalidOption, match=rf"options\.{name} is 2049; ollama\.max_context allows at most 2048"):
        build(model, {"inputs": "hi"}, {name: 2049})


@pytest.mark.parametrize(
    ("inputs", "where"),
    [
        ({"inputs": "what is [img-0]?"}, "data.inputs"),
        ({"messages": [{"role": "user", "content": "see [img-12]"}]}, r"data.messages\[0\].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "[img-1]"}]}]},
            r"data.messages\[0\].content",
        ),
    ],
)
def test_a_text_that_ollama_takes_for_an_image_is_refused_by_models_that_see(
    inputs: dict[str, Any], where: str
) -> None:
    with pytest.raises(InvalidInput, match=rf"{where} holds '\[img-\d+\]'"):
        build(OllamaModel("m", sees=True), inputs, {})
    assert b"[img-" in build(MODEL, inputs, {})[1]


def test_format_think_and_keep_alive_stand_beside_the_options() -> None:
    schema = {"type": "object"}
    sent = body({"inputs": "hi"}, {"format": schema, "think": "low", "keep_alive": "5m", "mine": 1})
    assert (sent["format"], sent["think"], sent["keep_alive"]) == (schema, "low", "5m")
    assert sent["options"] == {"repeat_penalty": 1.0, "mine": 1}


def test_the_options_of_the_caller_are_left_as_they_were() -> None:
    options = {"max_length": 9, "do_sample": False, "keep_alive": 0}
    body({"inputs": "hi"}, options)
    assert options == {"max_length": 9, "do_sample": False, "keep_alive": 0}


def test_images_are_attached_to_the_message_that_names_them_pixel_by_pixel() -> None:
    images = [image(seed=0), image(5, 4, seed=1), image(seed=2)]
    sent = body(
        {
            "images": images,
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": "Look."}]},
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": "A square."},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "And"},
                        {"type": "image"},
                        {"type": "image"},
                        {"type": "text", "text": "these?"},
                    ],
                },
            ],
        }
    )
    assert [message["content"] for message in sent["messages"]] == [
        "Look.",
        "What?",
        "A square.",
        "And\nthese?",
    ]
    assert [len(message.get("images", ())) for message in sent["messages"]] == [0, 1, 0, 2]
    arrived = [decoded(one) for message in sent["messages"] for one in message.get("images", ())]
    for sent_image, its_source in zip(arrived, images, strict=True):
        assert np.array_equal(sent_image, np.asarray(its_source))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"audio": [0.0]}, "runs a prompt or messages; it got audio"),
        (
            {"images": [], "messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "names 1 image, but data.images has 0",
        ),
        (
            {"images": [image()], "messages": [{"role": "user", "content": "hi"}]},
            "names 0 images, but data.images has 1",
        ),
    ],
)
def test_inputs_of_another_shape_are_refused(inputs: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        build(MODEL, inputs, {})
