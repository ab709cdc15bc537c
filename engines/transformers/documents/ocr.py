"""ocr without generating: whole pages by two models, and single lines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from PIL import Image

from engines.transformers.documents.ocr_pages import PageReader, PageText, has_page_reader, recognizer_of
from engines.transformers.documents.text_recognition import TextRecognizer
from engines.transformers.loading import ModelFolder
from engines.transformers.runner import Outcome, TaskRunner, refuse_options
from engines.transformers.shared_vlms import SharedModels
from handlers.errors import InvalidInput


class _ReadingRunner(TaskRunner):
    """Reads RGB pictures without generating: no option applies, and a page's text has no limit."""

    @abstractmethod
    def read(self, image: Image.Image) -> PageText:
        """Return the text of a picture."""

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> Image.Image:
        """Return the picture."""
        refuse_options(options, takes=(), because=f"model {self.name} reads without generating text")
        if "prompt" in inputs:
            raise InvalidInput(
                f"data.prompt is for image-text-to-text models; model {self.name} is none: leave it out"
            )
        image: Image.Image = inputs["image"]
        return image

    def answer(self, prepared: Sequence[Image.Image]) -> Iterator[tuple[int, Outcome]]:
        """Yield text, lines [{text, box, score}], width and height for each picture."""
        for place, image in enumerate(prepared):
            page = self.read(image)
            yield (
                place,
                {"text": page.text, "lines": page.lines, "width": image.width, "height": image.height},
            )


class PageRunner(_ReadingRunner):
    """Finds the lines of a page and reads them: two models, in the folders `detection/` and `recognition/`."""

    def __init__(self, name: str, reader: PageReader, let_go: Callable[[], None]) -> None:
        """`let_go` says that the models are not used any more by this task."""
        models: Any = reader.models
        super().__init__(name, models)
        self._reader = reader
        self._let_go = let_go

    @classmethod
    def takes(cls, folder: ModelFolder) -> bool:
        """Return whether `folder` holds both models."""
        return has_page_reader(folder.path)

    @classmethod
    def load(cls, folder: ModelFolder, shared: SharedModels) -> Self:
        """Return the runner of the page reader in `folder`, which other tasks may use already."""
        return cls(folder.name, *PageReader.take(folder, shared))

    def read(self, image: Image.Image) -> PageText:
        """Return the lines of the page."""
        return self._reader.read(image)

    def close(self) -> None:
        """Read no more."""
        self._let_go()


class LineRunner(_ReadingRunner):
    """Takes the whole picture as one line, read by a text recognition model such as PP-OCR's."""

    kinds = ("AutoModelForTextRecognition",)

    def __init__(self, name: str, recognizer: TextRecognizer) -> None:
        super().__init__(name, recognizer.model)
        self._recognizer = recognizer

    @classmethod
    def load(cls, folder: ModelFolder, shared: SharedModels) -> Self:
        """Return the runner of the text recognition model in `folder`."""
        return cls(folder.name, recognizer_of(folder))

    def read(self, image: Image.Image) -> PageText:
        """Return the one line."""
        [line] = self._recognizer.read([image])
        box = [0, 0, image.width, image.height]
        found = [{"text": line.text, "box": box, "score": line.score}] if line.text else []
        return PageText(line.text, found)
