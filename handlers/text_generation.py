"""text-generation: a prompt or a conversation in, the model's answer out."""

from __future__ import annotations

from typing import Any

from handlers.base import BaseModelHandler
from handlers.errors import InvalidInput
from handlers.options.options import options_of
from handlers.options.spec import shown

ROLES = ("system", "user", "assistant", "tool")


class TextGenerationHandler(BaseModelHandler):
    """Takes `inputs` (a string) or `messages` ([{role, content}]), exactly one of them."""

    task = "text-generation"
    options = options_of("text-generation")

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return {"inputs": str} or {"messages": [{"role": str, "content": str}, ...]}."""
        inputs, messages = data.get("inputs"), data.get("messages")
        if inputs is not None and messages is not None:
            raise InvalidInput("data.inputs and data.messages are both given; send one of them")
        if messages is not None:
            return {"messages": checked_messages(messages)}
        if inputs is None:
            came = ", ".join(sorted(map(str, data))) or "nothing"
            raise InvalidInput(f"data.inputs (a string) or data.messages (a list) is required; got {came}")
        if not isinstance(inputs, str) or not inputs.strip():
            raise InvalidInput(f"data.inputs is {shown(inputs)}; it must be a string with some text in it")
        return {"inputs": inputs}

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return generated_text and metadata: prompt_tokens, completion_tokens, finish_reason."""
        return generated_text(result)


def generated_text(result: dict[str, Any]) -> dict[str, Any]:
    """Return generated_text, and everything else an engine's raw `result` holds as metadata."""
    metadata = {name: value for name, value in result.items() if name not in ("generated_text", "metadata")}
    return {
        "generated_text": result["generated_text"],
        "metadata": {**metadata, **result.get("metadata", {})},
    }


def checked_messages(messages: Any) -> list[dict[str, str]]:
    """Return `messages` as dicts of role and content alone.

    Raises:
        InvalidInput: permanent; names the message by its index and what it must be.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise InvalidInput(f"data.messages is {shown(messages)}; it must be a list of {{role, content}}")
    return [_checked_message(index, message) for index, message in enumerate(messages)]


def _checked_message(index: int, message: Any) -> dict[str, str]:
    where = f"data.messages[{index}]"
    if not isinstance(message, dict):
        raise InvalidInput(f"{where} is {shown(message)}; it must be an object with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise InvalidInput(f"{where}.role is {shown(role)}; it must be one of {', '.join(ROLES)}")
    if not isinstance(content, str) or (role == "user" and not content.strip()):
        raise InvalidInput(f"{where}.content is {shown(content)}; it must be a string with some text in it")
    return {"role": role, "content": content}
