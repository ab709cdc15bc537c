"""The vlm handler: which images belong where in a conversation, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from handlers.errors import InvalidInput, MediaCorrupt
from handlers.registry import HandlerRegistry
from handlers.settings import MediaSettings
from handlers.vlm import VlmHandler

HANDLER = VlmHandler(MediaSettings(max_images=3))
IMAGE = {"type": "image"}


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def picture(width: int = 4) -> Image.Image:
    return Image.new("RGB", (width, 4))


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def refusal(data: dict[str, Any]) -> str:
    with pytest.raises(InvalidInput) as caught:
        HANDLER.preprocess(data, {})
    return caught.value.message


def test_the_registry_serves_vlm_with_this_handler() -> None:
    handler = HandlerRegistry().get("vlm")
    assert isinstance(handler, VlmHandler)
    assert handler.media_fields == ("image", "images")
    assert "stop" in (handler.options or {})


def test_a_prompt_becomes_one_message_with_the_images_before_it() -> None:
    inputs = HANDLER.preprocess({"images": [picture(1), picture(2)], "prompt": "Which is wider?"}, {})
    assert inputs["messages"] == [user([IMAGE, IMAGE, text("Which is wider?")])]
    assert [image.width for image in inputs["images"]] == [1, 2]


def test_messages_of_strings_get_the_images_before_the_first_text_of_the_user() -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        user("What is this?"),
        {"role": "assistant", "content": "A cat."},
        user("Sure?"),
    ]
    inputs = HANDLER.preprocess({"image": picture(), "messages": messages}, {})
    assert inputs["messages"] == [
        {"role": "system", "content": [text("Be short.")]},
        user([IMAGE, text("What is this?")]),
        {"role": "assistant", "content": [text("A cat.")]},
        user([text("Sure?")]),
    ]


def test_images_named_in_messages_stay_where_they_are_named() -> None:
    messages = [user([text("Before"), IMAGE, text("and after"), IMAGE, text("?")]), user("Well?")]
    given = {"images": [picture(), picture()], "messages": messages}
    assert HANDLER.preprocess(given, {})["messages"] == [messages[0], user([text("Well?")])]


def test_the_callers_data_is_left_as_it_was() -> None:
    messages = [user("What is this?")]
    HANDLER.preprocess({"image": picture(), "messages": messages}, {})
    assert messages == [user("What is this?")]


def test_a_message_may_be_an_image_alone() -> None:
    given = {"image": picture(), "messages": [user([IMAGE]), user("What is it?")]}
    assert HANDLER.preprocess(given, {})["messages"][0] == user([IMAGE])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"prompt": "x"}, "data.image (one image) or data.images (a list) is required; got prompt"),
        ({"image": picture()}, "data.prompt (a string) or data.messages (a list) is required; got image"),
        ({"image": picture(), "prompt": "x", "messages": [user("x")]}, "are both given; send one of them"),
        ({"image": picture(), "images": [picture()], "prompt": "x"}, "are both given; put every image"),
        ({"image": picture(), "prompt": "  "}, 'data.prompt is "  "; it must be a string with some text'),
        ({"image": picture(), "prompt": 7}, "data.prompt is 7"),
        ({"images": [picture()] * 4, "prompt": "x"}, "holds 4 images; media.max_images allows 3"),
        ({"image": picture(), "messages": []}, "data.messages is []; it must be a list"),
        ({"image": picture(), "messages": ["x"]}, 'data.messages[0] is "x"; it must be an object'),
        (
            {"image": picture(), "messages": [{"role": "robot"}]},
            'data.messages[0].role is "robot"; it must be',
        ),
        ({"image": picture(), "messages": [user([])]}, "data.messages[0].content is []; it must be"),
        ({"image": picture(), "messages": [user(None)]}, "data.messages[0].content is None; it must be"),
        ({"image": picture(), "messages": [user(" ")]}, "must have some text or an image in it"),
        (
            {"image": picture(), "messages": [user([{"type": "audio"}])]},
            "data.messages[0].content[0] is {'type': 'audio'}; it must be",
        ),
        ({"image": picture(), "messages": [user([{"type": "text"}])]}, 'it must be {"type": "text", '),
        (
            {"image": picture(), "messages": [user([IMAGE, IMAGE, text("x")])]},
            "data.messages has 2 parts of type image, but 1 came",
        ),
        (
            {"image": picture(), "messages": [{"role": "system", "content": "x"}]},
            "data.messages has no message of role user",
        ),
    ],
)
def test_wrong_data_is_refused_with_the_way_out(data: dict[str, Any], reason: str) -> None:
    assert reason in refusal(data)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "url": "https://example.com/a.png"},
        {"type": "image", "image": "s3://b/k"},
        {"type": "image", "path": "/etc/passwd"},
        {"type": "image", "base64": "AAAA"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ],
)
def test_an_address_inside_messages_is_refused(part: dict[str, Any]) -> None:
    message = refusal({"image": picture(), "messages": [user([text("What?"), part])]})
    key = next(name for name in part if name != "type")
    assert message == (
        f'data.messages[0].content[1] carries an image under "{key}"; put it into data.images and leave '
        '{"type": "image"} here'
    )


def test_an_image_that_does_not_decode_is_named() -> None:
    with pytest.raises(MediaCorrupt, match=r"data\.images\[1\]"):
        HANDLER.preprocess({"images": [picture(), b"?"], "prompt": "x"}, {})


def test_the_result_is_the_text_and_the_rest_is_metadata() -> None:
    raw = {"generated_text": "A cat.", "prompt_tokens": 40, "completion_tokens": 3, "finish_reason": "stop"}
    assert HANDLER.postprocess(raw, {}) == {
        "generated_text": "A cat.",
        "metadata": {"prompt_tokens": 40, "completion_tokens": 3, "finish_reason": "stop"},
    }
