"""document-analysis: a document in; the text of its pages, and the answer to a question about it, out."""

from __future__ import annotations

from typing import Any

from handlers.base import MediaHandler, notes, optional_text, with_metadata
from handlers.decoding.document import read_document
from handlers.decoding.document_pages import told_damage
from handlers.options.options import options_of


class DocumentAnalysisHandler(MediaHandler):
    """Takes `document` (a PDF or an image), and optionally `question` and `pages`."""

    task = "document-analysis"
    media_fields = ("document",)
    waits_for_children = True
    data_fields = ("document", "question", "pages")
    options = options_of("document-analysis")

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return `pages` (see `handlers.decoding.document_pages.Page`), and `question` where it was given.

        With a question, pages that have a text layer get an image too: some models answer from it. `truncated` tells
        of which pages a PDF has damaged content, so that only a part of it was read.
        """
        self.validate_input(data, ["document"])
        question = optional_text(data, "question")
        pages = read_document(
            data["document"],
            field="data.document",
            limits=self.limits,
            pages=data.get("pages"),
            with_images=bool(question),
        )
        picture = pages[0]["image"]
        lost = (picture and picture.info.get("truncated")) or told_damage(pages, "data.document")
        return {"pages": pages, **question, **notes(truncated=lost)}

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return pages [{number, width, height, dpi, text_source, text, regions, finish_reason?}], answer?, metadata.

        text_source is text_layer, ocr or mixed: pictures of a page with a text layer are read too where they are 5 % of
        it or more, without what the layer covers. regions are in reading order: text, box, and score where it was read
        from the image, polygon where it is tilted, boxes where its last word continues in the next line. A page has a
        finish_reason (stop, length) where the model generated its text.
        """
        return with_metadata({name: result[name] for name in ("pages", "answer") if name in result}, result)
