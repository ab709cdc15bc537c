"""document-analysis: the text of every page, from its text layer or its image, and answers to questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Self

from torch import nn

from engines.transformers.documents.document_answers import AnswerFinder
from engines.transformers.documents.ocr import TRANSCRIBE, question_about
from engines.transformers.documents.ocr_pages import PageReader, has_page_reader
from engines.transformers.documents.page_text import (
    ReadPage,
    image_to_read,
    read_from_layer,
    read_from_picture,
    transcribed,
)
from engines.transformers.loading import ModelFolder
from engines.transformers.runner import Outcome, TaskRunner, refuse_options
from engines.transformers.shared_models import SharedModels
from engines.transformers.vlm import VlmRunner
from handlers.decoding.document_pages import Page
from handlers.errors import InferenceError, InvalidInput

_FINDER, _WRITER = "AutoModelForDocumentQuestionAnswering", "AutoModelForImageTextToText"


class DocumentAnalysisRunner(TaskRunner):
    """Reads the pages of documents and answers questions about them. A page with a text layer is not read from its
    picture, but where pictures that the layer does not cover are a part of it: then both count. Lines are in reading
    order, each with its place."""

    kinds = (_FINDER, _WRITER)
    needs = "a document question answering or image-text-to-text model, or folders detection/ and recognition/"

    def __init__(
        self,
        name: str,
        *,
        reader: PageReader | None = None,
        finder: AnswerFinder | None = None,
        asked: VlmRunner | None = None,
        release: Callable[[], None],
    ) -> None:
        """There is at least one of a page reader and something that answers."""
        held = {part: one.model for part, one in (("reader", reader), ("finder", finder), ("asked", asked)) if one}
        # As one model, so that they are counted and freed together.
        model: Any = nn.ModuleDict(held) if len(held) > 1 else next(iter(held.values()))
        super().__init__(name, model, release)
        self.reader, self.finder, self.asked = reader, finder, asked

    @classmethod
    def takes(cls, folder: ModelFolder) -> bool:
        """Return whether `folder` has a model that answers, or a page reader without one."""
        return _is_reader_alone(folder) or super().takes(folder)

    @classmethod
    def load(cls, folder: ModelFolder, shared: SharedModels) -> Self:
        """Return the runner of a document question answering or image-text-to-text model, of a page reader
        (`detection/` and `recognition/`), or of both in one folder."""
        given: dict[str, Any] = {}
        with ExitStack() as shares:  # releases them where the load breaks off
            if has_page_reader(folder.path):
                given["reader"], release = PageReader.take(folder, shared)
                shares.callback(release)
            kind = None if _is_reader_alone(folder) else folder.auto_class(*cls.kinds)
            if kind == _FINDER:
                given["finder"] = AnswerFinder(folder)
            elif kind == _WRITER:
                given["asked"] = asked = VlmRunner.load(folder, shared)
                shares.callback(asked.close)
            return cls(folder.name, **given, release=shares.pop_all().close)

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the document and its options; a model that generates no text takes none."""
        if self.asked is None:
            refuse_options(options, takes=(), because=f"model {self.name} generates no text")
            if self.finder is None and inputs.get("question") is not None:
                raise InvalidInput(
                    f"data.question: model {self.name} reads pages but does not answer questions; name a document "
                    "question answering model or an image-text-to-text model, or leave the question out"
                )
        return inputs, options

    def answer(self, prepared: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Iterator[tuple[int, Outcome]]:
        """Yield pages [{number, width, height, dpi, text_source, text, regions, finish_reason?}] for each input,
        and answer (with answer_page and answer_score where the model finds it in the words) for a question.

        text_source is text_layer, ocr (read from the picture) or mixed (both). A region is {text, box, score?},
        with polygon where it is tilted, and with boxes where its last word goes on in the next line. Pictures
        that the text layer does not cover are read where they are 5 % of a page or more. Where the model cannot
        read pictures, a page that has both has the text layer alone, and unread_pictures; so it is where an
        image-text-to-text model is the one that reads, and pictures are less than 25 % of the page.

        Every page has its text, asked or not. Where an image-text-to-text model is the one that reads, that
        takes its own text for each page without words, each bound by the options as the answer is;
        finish_reason tells whether it is whole (stop) or was cut (length). For an answer alone, task vlm
        takes pictures of pages.
        """
        for place, (inputs, options) in enumerate(prepared):
            try:
                yield place, self._result(inputs["pages"], inputs.get("question"), options)
            except InferenceError as error:
                yield place, error

    def _result(self, pages: Sequence[Page], question: str | None, options: dict[str, Any]) -> dict[str, Any]:
        transcripts: dict[int, dict[str, Any]] = {}
        answer: dict[str, Any] = {}
        if self.asked is not None:
            # Of a page of text with a small picture, a transcript has more mistakes than it has words to add.
            unread = [page for page in pages if not self._is_readable(page) and not page.get("unread")]
            asked = [question_about([page["image"]], TRANSCRIBE) for page in unread]
            if question is not None:
                asked.append(question_about([page["image"] for page in pages], question))
            told = []
            for outcome in self.asked.run(asked, [options] * len(asked)):  # all questions run together
                if isinstance(outcome, InferenceError):
                    raise outcome
                told.append(outcome)
            if question is not None:
                answer = {"answer": told.pop()["generated_text"].strip()}
            transcripts = {page["number"]: one for page, one in zip(unread, told, strict=True)}
        read = [self._read(page, transcripts.get(page["number"])) for page in pages]
        if self.finder is not None and question is not None:
            worded: list[Page] = [{**one.page, "words": one.words} for one in read]
            answer = self.finder.find(question, worded)._asdict()
        return {"pages": [one.result() for one in read], **answer}

    def _is_readable(self, page: Page) -> bool:
        return page["words"] is not None or (self.reader is not None and page["image"] is not None)

    def _read(self, page: Page, transcript: dict[str, Any] | None = None) -> ReadPage:
        """Return the text of a page from its text layer, from its `transcript`, or from the page reader."""
        if page["words"] is not None:
            return read_from_layer(page, page["words"])
        if transcript is not None:
            return transcribed(page, transcript["generated_text"].strip(), transcript["finish_reason"])
        if self.reader is not None and (image := image_to_read(page)) is not None:
            return read_from_picture(page, self.reader.read(image))
        if page["layer"]:
            return read_from_layer(page, page["layer"])
        raise InvalidInput(
            f"data.document has no text layer on page {page['number']}, and model {self.name} cannot read "
            "pictures: send a PDF with text, or name a model with folders detection/ and recognition/"
        )


def _is_reader_alone(folder: ModelFolder) -> bool:
    return has_page_reader(folder.path) and not (folder.path / "config.json").is_file()
