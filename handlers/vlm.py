"""vlm: takes images and a question about them, returns the model's answer."""

from __future__ import annotations

from typing import Any

from handlers.base import MediaHandler, notes, with_metadata
from handlers.decoding.images import read_images
from handlers.errors import InvalidInput, counted
from handlers.options.options import options_of
from handlers.options.spec import shown
from handlers.text_generation import text_or_messages

_ADDRESSES = ("image", "image_url", "url", "path", "base64", "data", "source")
"""Keys of messages of other programs that hold the image itself."""


class VlmHandler(MediaHandler):
    """Takes `image` or `images`, and a `prompt` or `messages` ([{role, content}]), one of each pair.

    In messages, `content` is a string or a list of {"type": "text", "text"} and {"type": "image"}: the parts
    of type image stand for the images in their order. Where none does, the images go before the first text
    of the user.
    """

    task = "vlm"
    media_fields = ("image", "images")
    data_fields = ("image", "images", "prompt", "messages")
    options = options_of("vlm")

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return `images` (PIL images of mode RGB) and `messages` whose contents are lists of parts.

        There are as many parts of type image as there are images.
        """
        messages = text_or_messages(data, "prompt", _content)
        if isinstance(messages, str):
            messages = [{"role": "user", "content": [{"type": "text", "text": messages}]}]
        images = read_images(data, self.limits)
        named = sum(part["type"] == "image" for message in messages for part in message["content"])
        if not named:
            of_user = next((message for message in messages if message["role"] == "user"), None)
            if of_user is None:
                raise InvalidInput(
                    "data.messages has no message of role user, to which the images could belong; add one"
                )
            of_user["content"] = [{"type": "image"}] * len(images) + of_user["content"]
        elif named != len(images):
            raise InvalidInput(
                f"data.messages has {counted(named, 'part')} of type image, but {len(images)} came in data.image or "
                "data.images; name each once, or none at all"
            )
        left_out = "; ".join(image.info["truncated"] for image in images if "truncated" in image.info)
        return {"images": images, "messages": messages, **notes(truncated=left_out)}

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return generated_text and metadata: prompt_tokens, completion_tokens, finish_reason."""
        return with_metadata({"generated_text": result["generated_text"]}, result)


def _content(where: str, role: str, content: Any) -> list[dict[str, str]]:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list | tuple) or not parts:
        raise InvalidInput(f"{where} is {shown(content)}; it must be a string or a list of parts")
    checked = [_part(f"{where}[{index}]", part) for index, part in enumerate(parts)]
    if role == "user" and not any(part["type"] == "image" or part["text"].strip() for part in checked):
        raise InvalidInput(f"{where} is {shown(content)}; it must have some text or an image in it")
    return checked


def _part(where: str, part: Any) -> dict[str, str]:
    match part:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "image" | "image_url"} if carried := [key for key in _ADDRESSES if key in part]:
            raise InvalidInput(
                f'{where} carries an image under "{carried[0]}"; put it into data.images and leave '
                '{"type": "image"} here'
            )
        case {"type": "image"}:
            return {"type": "image"}
    raise InvalidInput(f'{where} is {shown(part)}; it must be {{"type": "text", "text": ...}} or {{"type": "image"}}')
