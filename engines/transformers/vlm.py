"""vlm by image-text-to-text models, such as LLaVA and Qwen-VL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedModel

from engines.transformers.generation_runner import GenerationRunner, Prompt
from engines.transformers.loading import ModelFolder
from handlers.errors import InvalidInput, ModelLoadFailed

_OF_THE_PROMPT = frozenset({"input_ids", "attention_mask"})


class VisionLanguageRunner(GenerationRunner):
    """Answers conversations about images; rows may have different numbers of images of any sizes."""

    def __init__(self, name: str, model: PreTrainedModel, processor: Any) -> None:
        super().__init__(name, model, processor.tokenizer)
        self.processor = processor
        config: Any = model.config
        names = ("image_token_id", "image_token_index")
        tokens = (getattr(holder, name, None) for holder in (config, processor) for name in names)
        self.placeholders = frozenset(token for token in tokens if isinstance(token, int))

    @classmethod
    def load(cls, folder: ModelFolder) -> VisionLanguageRunner:
        """Return the runner of an image-text-to-text model and its processor."""
        model = folder.model("AutoModelForImageTextToText", purpose="a vision-language model")
        if model.config.is_encoder_decoder:
            raise ModelLoadFailed(
                f"model {folder.name} is a {type(model).__name__}, an encoder-decoder; vlm runs models that "
                "go on where the prompt ends"
            )
        return cls(folder.name, model, folder.processor())

    def prompt(self, inputs: dict[str, Any]) -> Prompt:
        """Return the tokens of the conversation, with places for the images, and the images' tensors."""
        images, messages = inputs["images"], inputs["messages"]
        try:
            encoded = self._encode(messages, images)
        except TemplateError as error:
            raise InvalidInput(f"data.messages does not suit model {self.name}: {error}") from error
        except (
            ValueError
        ) as error:  # how processors say that there are too many images, or that one is too small
            raise InvalidInput(f"model {self.name} does not take these images: {error}") from error
        encoded = encoded.to(device=self.model.device, dtype=self.model.dtype)
        tokens: list[int] = encoded["input_ids"][0].tolist()
        extras = {name: tensor for name, tensor in encoded.items() if name not in _OF_THE_PROMPT}
        return Prompt(tokens, extras)

    def _encode(self, messages: Sequence[dict[str, Any]], images: Sequence[Any]) -> Any:
        if self.processor.chat_template is None:
            return self.processor(text=self._plain_text(messages), images=list(images), return_tensors="pt")
        return self.processor.apply_chat_template(
            _with_images(messages, images),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )

    def _plain_text(self, messages: Sequence[dict[str, Any]]) -> str:
        """Return the one message of the user as text, each image as the processor writes it."""
        if len(messages) > 1:
            raise InvalidInput(
                f"data.messages needs a chat template, which model {self.name} lacks; send data.prompt"
            )
        image = getattr(self.processor, "image_token", "")
        parts = messages[0]["content"]
        return "".join(
            f"{image}\n" if part["type"] == "image" and image else part.get("text", "") for part in parts
        )


def _with_images(messages: Sequence[dict[str, Any]], images: Sequence[Any]) -> list[dict[str, Any]]:
    """Return `messages` with each image in the part that stands for it, as processors want it."""
    left = iter(images)
    return [
        {
            "role": message["role"],
            "content": [
                {**part, "image": next(left)} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in messages
    ]
