"""ocr: which runner reads, by the kind of the model; whole pages by two models, and single lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from transformers import VisionEncoderDecoderConfig

from engines.transformers.loading import ModelFolder
from engines.transformers.ocr_pages import PageReader, PageText, has_page_reader, recognizer_of
from engines.transformers.runner import Outcome, TaskRunner, refuse_options
from engines.transformers.text_recognition import TextRecognizer
from handlers.errors import InferenceError, InvalidInput


class OcrRunner(TaskRunner):
    """Reads RGB pictures."""

    kinds = ("AutoModelForTextRecognition", "AutoModelForImageTextToText")
    purpose = "a text recognition or image-text-to-text model, or folders detection/ and recognition/"

    @classmethod
    def kind_of(cls, folder: ModelFolder) -> str | None:
        """Return the kind of the one model, None for a page reader."""
        return None if has_page_reader(folder.path) else super().kind_of(folder)

    @classmethod
    def load(cls, folder: ModelFolder) -> TaskRunner:
        """Return the runner of a folder with `detection/` and `recognition/` (whole pages), or of one model:
        text recognition (PP-OCR) or an image encoder with a text decoder (TrOCR), which read one line each,
        or an image-text-to-text model, which is asked."""
        auto_class = cls.kind_of(folder)
        if auto_class is None:
            return ReadingRunner.of_pages(folder.name, *PageReader.take(folder))
        if auto_class == "AutoModelForTextRecognition":
            return ReadingRunner.of_lines(folder.name, recognizer_of(folder))
        from engines.transformers.ocr_generation import ImageToTextRunner, TranscriptionRunner

        if folder.model_type != VisionEncoderDecoderConfig.model_type:
            return TranscriptionRunner.load(folder)
        model: Any = folder.model(auto_class, purpose="an image-text-to-text model")
        return ImageToTextRunner(folder.name, model, folder.processor())


class ReadingRunner(TaskRunner):
    """Reads pictures without generating: no option applies, and a page's text has no limit."""

    def __init__(
        self,
        name: str,
        models: Any,
        read: Callable[[Image.Image], PageText],
        let_go: Callable[[], None] = lambda: None,
    ) -> None:
        """`let_go` says that the models are not used any more by this task."""
        super().__init__(name, models)
        self._read = read
        self._let_go = let_go

    @classmethod
    def load(cls, folder: ModelFolder) -> TaskRunner:
        """Return the runner of the kind of model in `folder`."""
        return OcrRunner.load(folder)

    @classmethod
    def of_pages(cls, name: str, reader: PageReader, let_go: Callable[[], None]) -> ReadingRunner:
        """Return the runner that finds the lines of a page and reads them."""
        return cls(name, reader.models, reader.read, let_go)

    @classmethod
    def of_lines(cls, name: str, recognizer: TextRecognizer) -> ReadingRunner:
        """Return the runner that takes the whole picture as one line."""

        def read(image: Image.Image) -> PageText:
            [line] = recognizer.read([image])
            box = [0, 0, image.width, image.height]
            found = [{"text": line.text, "box": box, "score": line.score}] if line.text else []
            return PageText(line.text, found)

        return cls(name, recognizer.model, read)

    def close(self) -> None:
        """Read no more."""
        self._let_go()

    def run(self, inputs: Sequence[dict[str, Any]], options: Sequence[dict[str, Any]]) -> list[Outcome]:
        """Return text, lines [{text, box, score}], width and height for each input."""
        return [self._result(one, its) for one, its in zip(inputs, options, strict=True)]

    def _result(self, inputs: dict[str, Any], options: dict[str, Any]) -> Outcome:
        try:
            refuse_options(options, takes=(), because=f"model {self.name} reads without generating text")
            if "prompt" in inputs:
                raise InvalidInput(
                    f"data.prompt is for image-text-to-text models; model {self.name} is none: leave it out"
                )
        except InferenceError as error:
            return error
        image: Image.Image = inputs["image"]
        page = self._read(image)
        return {"text": page.text, "lines": page.lines, "width": image.width, "height": image.height}
