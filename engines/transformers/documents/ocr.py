"""ocr: whole pages by two models and single lines, or by models that write: image encoders with a text decoder, and
those that are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from PIL import Image
from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel

from engines.transformers.device import to_model
from engines.transformers.documents.ocr_pages import PageReader, PageText, has_page_reader, recognizer_of
from engines.transformers.generation.runner import GenerationRunner, Prompt, decoder_start
from engines.transformers.loading import ModelFolder
from engines.transformers.runner import Outcome, TaskRunner, refuse_options
from engines.transformers.shared_vlms import SharedModels
from engines.transformers.text.vlm import AskingRunner
from handlers.errors import InvalidInput


class _ReadingRunner(TaskRunner):
    """Reads RGB images without generating: it takes no options, and the length of the text is not limited."""

    def __init__(
        self,
        name: str,
        model: Any,
        read: Callable[[Image.Image], PageText],
        let_go: Callable[[], None] = lambda: None,
    ) -> None:
        """`read` runs the shared model, `let_go` releases it."""
        super().__init__(name, model)
        self._read = read
        self._let_go = let_go

    def close(self) -> None:
        self._let_go()

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> Image.Image:
        refuse_options(options, takes=(), because=f"model {self.name} reads without generating text")
        if "prompt" in inputs:
            raise InvalidInput(
                f"data.prompt is for image-text-to-text models; model {self.name} is not one: leave it out"
            )
        image: Image.Image = inputs["image"]
        return image

    def answer(self, prepared: Sequence[Image.Image]) -> Iterator[tuple[int, Outcome]]:
        """Yield text, lines [{text, box, score}], width and height for each image."""
        for place, image in enumerate(prepared):
            page = self._read(image)
            yield (
                place,
                {"text": page.text, "lines": page.lines, "width": image.width, "height": image.height},
            )


class PageRunner(_ReadingRunner):
    """Finds the lines of a page and reads them: two models, in the folders `detection/` and `recognition/`."""

    needs = "folders detection/ and recognition/"

    @classmethod
    def takes(cls, folder: ModelFolder) -> bool:
        """Return whether `folder` holds both models."""
        return has_page_reader(folder.path)

    @classmethod
    def load(cls, folder: ModelFolder, shared: SharedModels) -> Self:
        """Return the runner of the page reader in `folder`, which other tasks may use already."""
        reader, let_go = PageReader.take(folder, shared)
        return cls(folder.name, reader.model, reader.read, let_go)


class LineRunner(_ReadingRunner):
    """Reads the whole image as one line, with a text recognition model such as PP-OCR's."""

    kinds = ("AutoModelForTextRecognition",)
    needs = "a text recognition model"

    @classmethod
    def load(cls, folder: ModelFolder, shared: SharedModels) -> Self:
        recognizer = recognizer_of(folder)

        def read(image: Image.Image) -> PageText:
            [line] = recognizer.read([image])
            box = [0, 0, image.width, image.height]
            found = [{"text": line.text, "box": box, "score": line.score}] if line.text else []
            return PageText(line.text, found)

        return cls(folder.name, recognizer.model, read)


TRANSCRIBE = "Transcribe all text in this image, exactly as it is written."
"""The prompt where the request has none."""

_PIXELS = "pixel_values"
"""The extra of a row with the encoder's input, (1, 3, height, width)."""


class ImageToTextRunner(GenerationRunner):
    """Reads an image, usually of one line, as TrOCR does; the row begins with the decoder's start token."""

    kinds = AskingRunner.kinds
    needs = "an image-text-to-text model"
    parts = (ModelFolder.processor,)

    def __init__(self, name: str, model: VisionEncoderDecoderModel, processor: Any) -> None:
        super().__init__(name, model, processor.tokenizer)
        self.image_processor = processor.image_processor
        config: Any = model.generation_config
        self._start = config.decoder_start_token_id = decoder_start(
            name,
            config.decoder_start_token_id,
            getattr(model.config, "decoder_start_token_id", None),
            config.bos_token_id,
            getattr(model.config.decoder, "bos_token_id", None),
        )

    @classmethod
    def takes(cls, folder: ModelFolder) -> bool:
        """Return whether the model in `folder` is an image encoder with a text decoder."""
        return super().takes(folder) and folder.model_type == VisionEncoderDecoderConfig.model_type

    def prompt(self, inputs: dict[str, Any]) -> Prompt:
        """Return the decoder's start token, with the encoder's input."""
        if "prompt" in inputs:
            raise InvalidInput(
                f"data.prompt is for image-text-to-text models; model {self.name} is not one: leave it out"
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

    needs = ImageToTextRunner.needs

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> Any:
        return super().prepare(_question(inputs), options), inputs["image"]

    def answer(self, prepared: Sequence[Any]) -> Iterator[tuple[int, Outcome]]:
        """Yield text, width, height, prompt_tokens, completion_tokens and finish_reason for each picture."""
        return _as_read(super().answer([sequence for sequence, _ in prepared]), prepared)


def _question(inputs: dict[str, Any]) -> dict[str, Any]:
    question = {"type": "text", "text": inputs.get("prompt", TRANSCRIBE)}
    message = {"role": "user", "content": [{"type": "image"}, question]}
    return {"images": [inputs["image"]], "messages": [message]}


def _as_read(
    answers: Iterator[tuple[int, Outcome]], prepared: Sequence[tuple[Any, Image.Image]]
) -> Iterator[tuple[int, Outcome]]:
    for place, outcome in answers:
        if isinstance(outcome, dict):
            _, image = prepared[place]
            rest = {name: value for name, value in outcome.items() if name != "generated_text"}
            text = outcome["generated_text"].strip()
            outcome = {"text": text, "width": image.width, "height": image.height, **rest}
        yield place, outcome
