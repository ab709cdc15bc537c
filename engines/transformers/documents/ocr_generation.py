"""ocr by models that write the text of a picture: image encoders with a text decoder, and those that are asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

from PIL import Image
from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel

from engines.transformers.device import to_model
from engines.transformers.generation.runner import GenerationRunner, Prompt
from engines.transformers.loading import ModelFolder
from engines.transformers.runner import Outcome
from engines.transformers.shared_vlms import SharedModels
from engines.transformers.text.vlm import AskingRunner
from handlers.errors import InvalidInput, ModelLoadFailed

TRANSCRIBE = "Transcribe all text in this image, exactly as it is written."
"""What a model is asked when the request brings no prompt."""

_PIXELS = "pixel_values"
"""The extra of a row that holds what the encoder sees, (1, 3, height, width)."""


class ImageToTextRunner(GenerationRunner):
    """Reads a picture, of one line mostly, as TrOCR does; the answer's row begins with the decoder's start."""

    kinds = AskingRunner.kinds

    def __init__(self, name: str, model: VisionEncoderDecoderModel, processor: Any) -> None:
        super().__init__(name, model, processor.tokenizer)
        self.image_processor = processor.image_processor
        config: Any = model.generation_config
        candidates = (
            config.decoder_start_token_id,
            getattr(model.config, "decoder_start_token_id", None),
            config.bos_token_id,
            getattr(model.config.decoder, "bos_token_id", None),
        )
        start = next((token for token in candidates if isinstance(token, int)), None)
        if start is None:
            raise ModelLoadFailed(f"model {name} does not say its decoder_start_token_id; save it with one")
        self._start = config.decoder_start_token_id = start

    @classmethod
    def takes(cls, folder: ModelFolder) -> bool:
        """Return whether the model in `folder` is an image encoder with a text decoder."""
        return super().takes(folder) and folder.model_type == VisionEncoderDecoderConfig.model_type

    @classmethod
    def load(cls, folder: ModelFolder, shared: SharedModels) -> Self:
        """Return the runner of the model in `folder` and its processor."""
        model: Any = folder.model(*cls.kinds, needs="an image-text-to-text model")
        return cls(folder.name, model, folder.processor())

    def prompt(self, inputs: dict[str, Any]) -> Prompt:
        """Return the decoder's start token, with what the encoder sees."""
        if "prompt" in inputs:
            raise InvalidInput(
                f"data.prompt is for image-text-to-text models; model {self.name} is none: leave it out"
            )
        pixels = self.image_processor(images=inputs["image"], return_tensors="pt")[_PIXELS]
        return Prompt([self._start], to_model(self.model, {_PIXELS: pixels}))

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> Any:
        return super().prepare(inputs, options), inputs["image"]

    def answer(self, prepared: Sequence[Any]) -> Iterator[tuple[int, Outcome]]:
        """Yield text, width, height, completion_tokens and finish_reason for each picture."""
        return _as_read(super().answer([sequence for sequence, _ in prepared]), prepared)


class TranscriptionRunner(AskingRunner):
    """Asks an image-text-to-text model for the text of a picture, by the request's prompt or `TRANSCRIBE`."""

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> Any:
        return super().prepare(_question(inputs), options), inputs["image"]

    def answer(self, prepared: Sequence[Any]) -> Iterator[tuple[int, Outcome]]:
        """Yield text, width, height, prompt_tokens, completion_tokens and finish_reason for each picture."""
        return _as_read(super().answer([sequence for sequence, _ in prepared]), prepared)


def _question(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the conversation that shows the picture and asks for its text."""
    question = {"type": "text", "text": inputs.get("prompt", TRANSCRIBE)}
    message = {"role": "user", "content": [{"type": "image"}, question]}
    return {"images": [inputs["image"]], "messages": [message]}


def _as_read(
    answers: Iterator[tuple[int, Outcome]], prepared: Sequence[tuple[Any, Image.Image]]
) -> Iterator[tuple[int, Outcome]]:
    """Yield the outcomes of generation as those of reading."""
    for place, outcome in answers:
        if isinstance(outcome, dict):
            _, image = prepared[place]
            rest = {name: value for name, value in outcome.items() if name != "generated_text"}
            text = outcome["generated_text"].strip()
            outcome = {"text": text, "width": image.width, "height": image.height, **rest}
        yield place, outcome
