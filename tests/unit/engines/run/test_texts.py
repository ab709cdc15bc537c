"""What is checked of a request before anything is loaded for it, and how a request that is wrong is told so."""

from __future__ import annotations

import pytest

from engines.models.resolved_model import ResolvedModel, check_tags
from engines.run.direct_call import check_texts
from handlers.errors import InvalidInput, ModelMismatch


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


def test_half_of_a_surrogate_pair_is_named_by_its_place() -> None:
    check_texts("data", {"messages": [{"content": "世界 🙂"}], "audio": b"\xff", "n": 1})
    with pytest.raises(InvalidInput, match=r"data\.messages\[0\]\.content is not Unicode text: at 2 stands '\\ud83d'"):
        check_texts("data", {"messages": [{"content": "a \ud83d"}]})
