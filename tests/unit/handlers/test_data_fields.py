"""Fields of the data that a task does not read are refused, as a misspelt one would be ignored in silence."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.base import BaseModelHandler
from handlers.document_analysis import DocumentAnalysisHandler
from handlers.errors import InvalidInput
from handlers.ocr import OcrHandler
from handlers.recording import AsrHandler, AudioClassificationHandler
from handlers.text_generation import TextGenerationHandler
from handlers.video_analysis import VideoAnalysisHandler
from handlers.vlm import VlmHandler

EVERY: list[type[BaseModelHandler]] = [
    AsrHandler,
    AudioClassificationHandler,
    DocumentAnalysisHandler,
    OcrHandler,
    TextGenerationHandler,
    VideoAnalysisHandler,
    VlmHandler,
]


@pytest.mark.parametrize("made", EVERY)
def test_every_field_that_a_task_reads_passes(made: type[BaseModelHandler]) -> None:
    handler = made()
    assert handler.data_fields is not None
    assert set(handler.media_fields) <= set(handler.data_fields)
    handler.refuse_unknown_fields(dict.fromkeys((*handler.data_fields, *handler.options_in_data)))


@pytest.mark.parametrize(
    ("made", "field", "told"),
    [
        (DocumentAnalysisHandler, "qestion", "did you mean data.question?"),
        (DocumentAnalysisHandler, "page", "did you mean data.pages?"),
        (OcrHandler, "promt", "did you mean data.prompt?"),
        (VlmHandler, "imges", "did you mean data.images?"),
        (TextGenerationHandler, "temperature", "it is an option: put it into options as temperature"),
        (TextGenerationHandler, "num_predict", "put it into options as num_predict"),
        (AsrHandler, "language", "put it into options as language"),
        (AsrHandler, "customer", "which reads audio, sampling_rate; leave it out"),
        (VideoAnalysisHandler, "customer", "frame_rate, prompt, num_frames, every_s, top_k; leave it out"),
        (AsrHandler, "x" * 1000, f"data.{'x' * 80} is unknown to task asr"),
    ],
)
def test_another_one_is_refused_with_a_hint(made: type[BaseModelHandler], field: str, told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        made().refuse_unknown_fields({field: None})
    assert told in refused.value.message
    assert f"data.{field[:80]} is unknown to task {made.task}" in refused.value.message


def test_a_handler_that_names_no_fields_takes_any() -> None:
    class Own(BaseModelHandler):
        def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
            return data

        def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
            return result

    Own().refuse_unknown_fields({"anything": 1})
