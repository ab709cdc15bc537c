"""What a model's tags allow, and how a request that they contradict is told so."""

from __future__ import annotations

import pytest

from engines.checks import check_tags
from engines.resolved_model import ResolvedModel
from handlers.errors import ModelMismatch


def tagged(**tags: str) -> ResolvedModel:
    return ResolvedModel("m", "2", "s3://bucket/m", tags)


@pytest.mark.parametrize("task", ["ocr", "document-analysis"])
@pytest.mark.parametrize("tag", ["ocr,document-analysis", " document-analysis , ocr,"])
def test_a_task_tag_may_name_several_tasks(task: str, tag: str) -> None:
    check_tags(tagged(task=tag, engine="transformers"), task=task, engine="transformers")


@pytest.mark.parametrize("tags", [{}, {"task": ""}, {"task": " , "}, {"engine": ""}])
def test_tags_that_say_nothing_contradict_nothing(tags: dict[str, str]) -> None:
    check_tags(tagged(**tags), task="asr", engine="mine")


def test_a_task_that_is_not_among_them_is_told_which_are() -> None:
    with pytest.raises(ModelMismatch) as caught:
        check_tags(tagged(task="ocr,document-analysis"), task="asr", engine="transformers")
    assert caught.value.message == (
        "model m/2 is registered with tag task=ocr,document-analysis, but the request says task=asr; "
        "ask for task ocr or document-analysis, or name another model"
    )


def test_an_engine_that_is_not_the_tagged_one_is_told_so() -> None:
    with pytest.raises(ModelMismatch, match="tag engine=ollama, but the request says engine=transformers"):
        check_tags(tagged(engine="ollama"), task="asr", engine="transformers")
