"""ocr: whole pages by two models and single lines, or by models that write: image encoders with a text decoder, and
those that are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Self

from PIL import Image
from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel

from engines.transformers.device import to_model
from engines.transformers.documents.ocr_pages import PageReader, PageText, has_page_reader, recognizer_of
from engines.transformers.documents.text_recognition import TextRecognizer
from engines.transformers.generation.runner import GenerationRunner, Prompt, decoder_start
from engines.transformers.generation.token_sequence import TokenSequence
from engines.transformers.loading import ModelFolder
from engines.transformers.runner import Outcome, TaskRunner, refuse_options
from engines.transformers.shared_models import SharedModels
from engines.transformers.vlm import VlmRunner
from handlers.errors import InvalidInput


class ReadingRunner(TaskRunner):
    """Reads RGB images without generating: it takes no options, and the length of the text is not limited. Two models,
    in the folders `detection/` and `recognition/`, find the lines of a page and read them; a text recognition model
    alone, such as PP-OCR's, reads the whole image as one line."""

    kinds = ("AutoModelForTextRecognition",)
    needs = "folders detection/ and recognition/ or a text recognition model"

    def __init__(
        self,
        name: str,
        model: Any,
        read: Callable[[Image.Image], PageText],
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """`read` runs the model, `release` releases it where it is shared."""
        super().__init__(name, model, release)
        self._read = read

    @classmethod
    def takes(cls, folder: ModelFolder) -> bool:
        """Return whether `folder` holds both models, or the one."""
        return has_page_reader(folder.path) or super().takes(folder)

    @classmethod
    def load(cls, folder: ModelFolder, shared: SharedModels) -> Self:
        """Return the runner of the one model, or of the page reader, which other tasks may use already."""
        if has_page_reader(folder.path):
            reader, release = PageReader.take(folder, shared)
            return cls(folder.name, reader.model, reader.read, release)
        recognizer = recognizer_of(folder)
        return cls(folder.name, recognizer.model, partial(_read_line, recognizer))

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> Image.Image:
        refuse_options(options, takes=(), because=f"model {self.name} reads without generating text")
        _refuse_prompt(self.name, inputs)
        image: Image.Image = inputs["image"]
        return image

    def answer(self, prepared: Sequence[Image.Image]) -> Iterator[tuple[int, Outcome]]:
        """Yield text, lines [{text, box, score}], width and height for each image."""
        for place, image in enumerate(prepared):
            page = self._read(image)
            size = {"width": image.width, "height": image.height}
            yield place, {"text": page.text, "lines": page.lines, **size}


def _refuse_prompt(name: str, inputs: dict[str, Any]) -> None:
    if "prompt" in inputs:
        raise InvalidInput(f"data.prompt is for image-text-to-text models; model {name} is not one: leave it out")


def _read_line(recognizer: TextRecognizer, image: Image.Image) -> PageText:
    [line] = recognizer.read([image])
    box = [0, 0, image.width, image.height]
    return PageText(line.text, [{"text": line.text, "box": box, "score": line.score}] if line.text else [])


TRANSCRIBE = "Transcribe all text in this image, exactly as it is written."
"""The prompt where the request has none."""

_PIXELS = "pixel_values"
"""The extra of a row with the encoder's input, (1, 3, height, width)."""


class ImageToTextRunner(GenerationRunner):
    """Reads an image, usually of one line, as TrOCR does; the row begins with the decoder's start token."""

    kinds = VlmRunner.kinds
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
        _refuse_prompt(self.name, inputs)
        pixels = self.image_processor(images=inputs["image"], return_tensors="pt")[_PIXELS]
        return Prompt([self._start], to_model(self.model, {_PIXELS: pixels}))

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> TokenSequence:
        return _reading(super().prepare(inputs, options), inputs["image"])


class TranscriptionRunner(VlmRunner):
    """Asks an image-text-to-text model for the text of a picture, by the request's prompt or `TRANSCRIBE`."""

    needs = ImageToTextRunner.needs

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> TokenSequence:
        image = inputs["image"]
        return _reading(super().prepare(question_about([image], inputs.get("prompt", TRANSCRIBE)), options), image)


def question_about(images: Sequence[Image.Image | None], question: str) -> dict[str, Any]:
    """Return the inputs of task vlm that ask `question` about pictures."""
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
    return {"images": images, "messages": [{"role": "user", "content": content}]}


def _reading(sequence: TokenSequence, image: Image.Image) -> TokenSequence:
    """Return `sequence` with ocr's result: text, width, height, how many tokens, and finish_reason."""

    def as_result(answer: dict[str, Any]) -> dict[str, Any]:
        text = answer.pop("generated_text").strip()
        return {"text": text, "width": image.width, "height": image.height, **answer}

    sequence.as_result = as_result
    return sequence
