"""The document-analysis handler: what reaches the engine, and what a caller gets."""

from __future__ import annotations

from typing import Any

import pytest

from handlers import model_registry
from handlers.document_analysis import DocumentAnalysisHandler
from handlers.errors import InvalidInput
from handlers.media import Media
from tests.documents import Line, text_pdf
from tests.hostile_documents import one_page, stream

HANDLER = DocumentAnalysisHandler()
DOCUMENT = Media(text_pdf([[Line(50, 60, "one")], [Line(50, 60, "two")]]), "s3://b/a.pdf")


def test_pages_come_without_pictures_where_nothing_is_asked() -> None:
    inputs = HANDLER.preprocess({"document": DOCUMENT, "pages": 2}, {})
    assert list(inputs) == ["pages"]
    assert [(page["number"], page["image"]) for page in inputs["pages"]] == [(2, None)]


def test_a_question_brings_pictures_along() -> None:
    inputs = HANDLER.preprocess({"document": DOCUMENT, "question": "How many?"}, {})
    assert inputs["question"] == "How many?"
    assert [page["image"].size for page in inputs["pages"]] == [(1240, 1755)] * 2


@pytest.mark.parametrize("question", ["", "  ", 7, ["Why?"]])
def test_a_question_that_is_no_text_is_refused(question: Any) -> None:
    with pytest.raises(InvalidInput, match=r"data\.question is .*; it must be a text, or left out"):
        HANDLER.preprocess({"document": DOCUMENT, "question": question}, {})


def test_a_missing_document_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"data\.document is required for task document-analysis; got image"):
        HANDLER.preprocess({"image": b""}, {})


def test_a_page_whose_content_is_damaged_is_told() -> None:
    damaged = stream(b"no deflated data", b"/Filter/FlateDecode")
    inputs = HANDLER.preprocess({"document": one_page(damaged)}, {})
    assert inputs["truncated"] == "data.document is damaged and was read only in part: content of page 1"


def test_the_result_has_pages_and_an_answer_only_where_one_was_asked_for() -> None:
    pages = [{"number": 1, "text": "one", "regions": []}]
    assert HANDLER.postprocess({"pages": pages}, {}) == {"pages": pages, "metadata": {}}
    result = HANDLER.postprocess({"pages": pages, "answer": "", "answer_page": 1}, {})
    assert result == {"pages": pages, "answer": "", "metadata": {"answer_page": 1}}


def test_the_registry_serves_it() -> None:
    assert isinstance(model_registry.get("document-analysis"), DocumentAnalysisHandler)
