"""document-analysis: the text of every page, from its text layer or by reading its picture, and answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import nn

from engines.transformers.document_answers import AnswerFinder
from engines.transformers.loading import ModelFolder
from engines.transformers.ocr_generation import TRANSCRIBE
from engines.transformers.ocr_pages import PageReader, has_page_reader
from engines.transformers.reading_order import lines_of, reading_order, text_of
from engines.transformers.runner import Outcome, TaskRunner, refuse_options
from engines.transformers.vlm import VisionLanguageRunner
from handlers.document_pages import Page, Word
from handlers.errors import InferenceError, InvalidInput

_ANSWERERS = ("AutoModelForDocumentQuestionAnswering", "AutoModelForImageTextToText")


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """What a model's folder holds: at least one of a page reader and something that answers."""

    reader: PageReader | None = None
    finder: AnswerFinder | None = None
    asked: VisionLanguageRunner | None = None

    @property
    def models(self) -> Any:
        """All models as one, so that they are counted and freed together."""
        models = nn.ModuleDict()
        if self.reader is not None:
            models["reader"] = self.reader.models
        if self.finder is not None:
            models["finder"] = self.finder.model
        if self.asked is not None:
            models["asked"] = self.asked.model
        return models


class DocumentAnalysisRunner(TaskRunner):
    """Reads the pages of documents and answers questions about them.

    A page with a text layer is never read from its picture. Its lines and those that were read are in reading
    order, each with its place.
    """

    def __init__(self, name: str, parts: Parts) -> None:
        super().__init__(name, parts.models)
        self.parts = parts

    @classmethod
    def load(cls, folder: ModelFolder) -> TaskRunner:
        """Return the runner of a document question answering or image-text-to-text model, of a page reader
        (`detection/` and `recognition/`), or of both in one folder."""
        reader = PageReader.load(folder) if has_page_reader(folder.path) else None
        if reader is not None and not (folder.path / "config.json").is_file():
            return cls(folder.name, Parts(reader))
        purpose = "a document question answering or image-text-to-text model, or folders detection/ and recognition/"
        if folder.auto_class(*_ANSWERERS, purpose=purpose) == _ANSWERERS[0]:
            return cls(folder.name, Parts(reader, finder=AnswerFinder.load(folder)))
        return cls(folder.name, Parts(reader, asked=VisionLanguageRunner.load(folder)))

    def run(self, inputs: Sequence[dict[str, Any]], options: Sequence[dict[str, Any]]) -> list[Outcome]:
        """Return pages [{number, width, height, text, regions [{text, box, score?}]}] for each input, and
        answer (with answer_page and answer_score where the model finds it in the words) for a question."""
        return [self._analysed(one, its) for one, its in zip(inputs, options, strict=True)]

    def _analysed(self, inputs: dict[str, Any], options: dict[str, Any]) -> Outcome:
        try:
            if self.parts.asked is None:
                because = f"model {self.name} generates no text"
                refuse_options(options, takes=(), because=because)
            pages: list[Page] = inputs["pages"]
            question = inputs.get("question")
            if question is None:
                return {"pages": [self._read(page, options) for page in pages]}
            return self._answered(pages, question, options)
        except InferenceError as error:
            return error

    def _answered(self, pages: Sequence[Page], question: str, options: dict[str, Any]) -> dict[str, Any]:
        if self.parts.asked is not None:
            images = [page["image"] for page in pages]
            answer = self._ask(images, question, options)
            return {"pages": [self._read(page, options, asked=True) for page in pages], "answer": answer}
        if self.parts.finder is None:
            raise InvalidInput(
                f"data.question: model {self.name} reads pages and answers nothing; name a document question "
                "answering model or an image-text-to-text model, or leave the question out"
            )
        read = [self._read(page, options) for page in pages]
        worded = [
            page if page["words"] is not None else _with_words(page, done)
            for page, done in zip(pages, read, strict=True)
        ]
        found = self.parts.finder.find(question, worded)
        return {"pages": read, "answer": found.text, "answer_page": found.page, "answer_score": found.score}

    def _read(self, page: Page, options: dict[str, Any], *, asked: bool = False) -> dict[str, Any]:
        """Return the text of a page; with `asked`, pages that would take a model another question stay empty."""
        known = {"number": page["number"], "width": page["width"], "height": page["height"]}
        if page["words"] is not None:
            lines = lines_of(page["words"])
            rows = reading_order([line.box for line in lines])
            regions: list[dict[str, Any]] = [
                {"text": lines[index].text, "box": lines[index].box} for row in rows for index in row
            ]
            return {**known, "text": text_of([line.text for line in lines], rows), "regions": regions}
        if self.parts.reader is not None and page["image"] is not None:
            read = self.parts.reader.read(page["image"])
            return {**known, "text": read.text, "regions": read.lines}
        if self.parts.asked is None:
            raise InvalidInput(
                f"data.document has no text layer on page {page['number']}, and model {self.name} cannot read "
                "pictures: send a PDF with text, or name a model with folders detection/ and recognition/"
            )
        text = "" if asked else self._ask([page["image"]], TRANSCRIBE, options)
        return {**known, "text": text, "regions": []}

    def _ask(self, images: Sequence[Any], question: str, options: dict[str, Any]) -> str:
        """Return what the image-text-to-text model says to `question` about `images`."""
        assert self.parts.asked is not None
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
        asked = {"images": list(images), "messages": [{"role": "user", "content": content}]}
        [outcome] = self.parts.asked.run([asked], [options])
        if isinstance(outcome, InferenceError):
            raise outcome
        text: str = outcome["generated_text"]
        return text.strip()


def _with_words(page: Page, read: dict[str, Any]) -> Page:
    """Return `page` with the words that were read, each with its part of its line's box."""
    words: list[Word] = []
    for region in read["regions"]:
        left, top, right, bottom = region["box"]
        letter = (right - left) / max(len(region["text"]), 1)
        at = 0
        for text in region["text"].split():
            at = region["text"].index(text, at)
            box = [round(left + at * letter), top, round(left + (at + len(text)) * letter), bottom]
            words.append({"text": text, "box": box})
            at += len(text)
    return {**page, "words": words}
