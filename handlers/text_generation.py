"""text-generation: takes a prompt or a conversation, returns the model's answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from handlers.base import BaseModelHandler, with_metadata
from handlers.errors import InvalidInput
from handlers.options.options import options_of
from handlers.options.spec import shown

ROLES = ("system", "user", "assistant", "tool")
_MESSAGE_FIELDS = frozenset({"role", "content", "name", "id", "tool_call_id"})
"""What messages may have; of these, names and ids are not read."""


class TextGenerationHandler(BaseModelHandler):
    """Takes `inputs` (a string) or `messages` ([{role, content}]), exactly one of them."""

    task = "text-generation"
    data_fields = ("inputs", "messages")
    options = options_of("text-generation")

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return {"inputs": str} or {"messages": [{"role": str, "content": str}, ...]}."""
        asked = text_or_messages(data, "inputs", _content)
        return {"inputs": asked} if isinstance(asked, str) else {"messages": asked}

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return generated_text and metadata: prompt_tokens, completion_tokens, finish_reason."""
        return with_metadata({"generated_text": result["generated_text"]}, result)


def text_or_messages(
    data: dict[str, Any], name: str, checked: Callable[[str, str, Any], Any]
) -> str | list[dict[str, Any]]:
    """Return the text in field `name` of `data`, or its messages as dicts of role and content.

    `checked` gets the place, role and content of a message and returns its content.

    Raises:
        InvalidInput: permanent; both or none of them, or an invalid message, named by its index.
    """
    text, messages = data.get(name), data.get("messages")
    if text is not None and messages is not None:
        raise InvalidInput(f"data.{name} and data.messages are both given; send one of them")
    if messages is not None:
        if not isinstance(messages, list | tuple) or not messages:
            raise InvalidInput(f"data.messages is {shown(messages)}; it must be a list of {{role, content}}")
        return [_message(f"data.messages[{index}]", message, checked) for index, message in enumerate(messages)]
    if text is None:
        came = ", ".join(sorted(map(str, data))) or "nothing"
        raise InvalidInput(f"data.{name} (a string) or data.messages (a list) is required; got {came}")
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput(f"data.{name} is {shown(text)}; it must be a string with some text in it")
    return text


def _message(where: str, message: Any, checked: Callable[[str, str, Any], Any]) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise InvalidInput(f"{where} is {shown(message)}; it must be an object with role and content")
    role = message.get("role")
    if role not in ROLES:
        raise InvalidInput(f"{where}.role is {shown(role)}; it must be one of {', '.join(ROLES)}")
    # Clients of chat services also write fields that are empty, such as "refusal": null.
    if unread := [name for name, value in message.items() if value and name not in _MESSAGE_FIELDS]:
        raise InvalidInput(
            f"{where} has {', '.join(map(shown, unread))}, which no model would see; a message has role and content: "
            "write text into content, and put images into data.images of task vlm"
        )
    return {"role": role, "content": checked(f"{where}.content", role, message.get("content"))}


def _content(where: str, role: str, content: Any) -> str:
    if not isinstance(content, str) or (role == "user" and not content.strip()):
        raise InvalidInput(f"{where} is {shown(content)}; it must be a string with some text in it")
    return content
