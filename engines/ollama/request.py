"""What a request of ours is in Ollama's API.

| our option | in the request to Ollama |
|---|---|
| max_new_tokens | options.num_predict |
| max_length | options.num_predict where max_new_tokens is absent: the prompt's tokens are not known before it runs, so it bounds only the answer |
| do_sample false | options.temperature 0, the likeliest token, whatever temperature came along |
| do_sample true | nothing: sampling is what Ollama does unless its temperature is 0 |
| seed | options.seed, its lower 31 bits: some versions read the value of all 32 as "none"; -1 stays |
| repetition_penalty | options.repeat_penalty, always sent: the model's own, else 1; the default is not the same in all versions |
| format, think, keep_alive | beside options |
| truncate | beside options, always sent: false unless the request asks for it, so a prompt that is too long is refused |
| nothing: the model's tag ollama_shift, or ollama.shift | shift, beside options |
| temperature, top_p, top_k, stop, and all others that the table of options gives to ollama | options, as they are |
| what a handler without a table of options lets through | options, as it is |

Ollama passes over options it does not know and logs them; versions 0.11 to 0.33 know no mirostat. A change of what
the model is loaded with, such as num_ctx, has the server load it again. Without an option, the model's Modelfile
decides, then Ollama.
"""  # noqa: E501 - rows of a table

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from handlers.errors import InvalidInput, counted
from handlers.options.options import translate_options
from handlers.options.spec import over_bound

if TYPE_CHECKING:
    from PIL.Image import Image

_HOST = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"
_NAMESPACE = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
# Source: https://github.com/ollama/ollama/blob/main/types/model/name.go, isValidPart and ParseNameBare.
_NAME = re.compile(rf"(?:https?://)?(?:(?:{_HOST}/)?{_NAMESPACE}/)?{_PART}(?::{_PART})?")


def is_valid_name(name: str) -> bool:
    """Return whether Ollama accepts `name` as the name of a model, which need not exist."""
    return _NAME.fullmatch(name) is not None


def short_name(name: str) -> str:
    """Return the shortest name that means the same model to Ollama: without the parts it fills in.

    Source: https://github.com/ollama/ollama/blob/main/types/model/name.go, DefaultName.
    """
    return name.removeprefix("registry.ollama.ai/").removeprefix("library/").removesuffix(":latest")


_BESIDE_OPTIONS = ("format", "think", "keep_alive", "truncate")
_SEED_BITS = 2**31 - 1
_CONTEXT_OPTIONS = ("num_ctx", "num_keep", "repeat_last_n")
_CONTEXT_SETTING = "ollama.max_context"
_IMAGE_MARK = re.compile(r"\[img-\d+\]")
"""Where Ollama puts an image into the prompt; in a user's text it would be replaced as well."""


@dataclass(frozen=True, slots=True, eq=False)
class OllamaModel:
    """A model on the server, as one registered version of ours loaded it; immutable."""

    name: str
    """The server's name of it."""
    repeat_penalty: float = 1.0
    """Used where a request sets none."""
    most_context: int | None = None
    """The longest context that requests may ask for, in tokens; None where ollama.max_context sets it."""
    shift: bool | None = None
    """Whether an answer that fills the context goes on without its oldest tokens; None: the server decides."""
    sees: bool = False
    """Whether it takes images."""


def build(model: OllamaModel, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return path and body of the request for a handler's `inputs`, which hold `inputs` (a prompt) or `messages`.

    A message's content is a text, or parts {"type": "image"} | {"type": "text", "text": str} whose images are
    those of `inputs["images"]` in order. Images travel as PNG, so the model sees every pixel as it is; Ollama
    puts a message's images before its text. Encoding them takes a while: not for an event loop.

    Raises:
        InvalidInput: permanent; neither a prompt nor messages, not as many images as the messages name, or a text
            that Ollama takes for the place of an image.
        InvalidOption: permanent; a longer context than the model was made for.
    """
    body: dict[str, Any] = {"model": model.name, "stream": True, **_translated(options, model)}
    if model.sees:
        _refuse_image_marks(inputs)
    if "messages" in inputs:
        messages, images = inputs["messages"], inputs.get("images", ())
        named = sum(part["type"] == "image" for message in messages for part in _parts(message))
        if named != len(images):
            raise InvalidInput(f"data.messages names {counted(named, 'image')}, but data.images has {len(images)}")
        left = iter(images)
        body["messages"] = [_message(message, left) for message in messages]
    elif isinstance(inputs.get("inputs"), str):
        body["prompt"] = inputs["inputs"]
    else:
        raise InvalidInput(f"engine ollama runs a prompt or messages; it got {', '.join(sorted(inputs))}")
    return "/api/chat" if "messages" in body else "/api/generate", msgspec.json.encode(body)


def _translated(options: Mapping[str, Any], model: OllamaModel) -> dict[str, Any]:
    theirs = translate_options(options, "ollama")
    most = model.most_context
    for name in _CONTEXT_OPTIONS:
        if most is not None and theirs.get(name, 0) > most:
            raise over_bound(name, theirs[name], most, _CONTEXT_SETTING)
    beside = {"truncate": False, **{name: theirs.pop(name) for name in _BESIDE_OPTIONS if name in theirs}}
    if model.shift is not None:
        beside["shift"] = model.shift
    most_tokens = theirs.pop("max_length", None)
    if most_tokens is not None:
        theirs.setdefault("num_predict", most_tokens)
    if theirs.pop("do_sample", None) is False:
        theirs["temperature"] = 0
    if theirs.get("seed", -1) >= 0:
        theirs["seed"] &= _SEED_BITS
    theirs.setdefault("repeat_penalty", model.repeat_penalty)
    return {**beside, "options": theirs}


def _refuse_image_marks(inputs: Mapping[str, Any]) -> None:
    """Raise InvalidInput where a text holds a mark that Ollama would replace by an image."""
    for where, text in _texts(inputs):
        if mark := _IMAGE_MARK.search(text):
            raise InvalidInput(
                f"{where} holds {mark[0]!r}, which Ollama takes for the place of an image in prompts of models that "
                "see; write it in another way, such as with round brackets"
            )


def _texts(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if isinstance(inputs.get("inputs"), str):
        yield "data.inputs", inputs["inputs"]
    for number, message in enumerate(inputs.get("messages", ())):
        for part in _parts(message):
            if part["type"] == "text":
                yield f"data.messages[{number}].content", part["text"]


def _message(message: Mapping[str, Any], images: Iterator[Image]) -> dict[str, Any]:
    texts = [part["text"] for part in _parts(message) if part["type"] == "text"]
    encoded = [_encoded(next(images)) for part in _parts(message) if part["type"] == "image"]
    shown = {"images": encoded} if encoded else {}
    return {"role": message["role"], "content": "\n".join(texts), **shown}


def _parts(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _encoded(image: Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getbuffer()).decode("ascii")
