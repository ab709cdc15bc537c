"""document-analysis on random weights: answers as the library's pipeline gives them, and who reads what."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import pipeline

from engines.transformers.device import to_model
from engines.transformers.documents.document_answers import best_span
from engines.transformers.documents.ocr import TRANSCRIBE
from engines.transformers.engine import TransformersEngine
from handlers.errors import InvalidInput, InvalidOption, ModelLoadFailed
from tests.device import on_this_machine
from tests.unit.engines.tiny_models import save_llama
from tests.unit.engines.tiny_readers import (
    save_layoutlm,
    save_layoutlmv3,
    save_page_reader,
)
from tests.unit.engines.tiny_vlms import save_llava

ENGINE = TransformersEngine(on_this_machine())
QUESTION = "what is the total"
LETTERS = list("abcdefghijklmnopqrstuvwxyz")
SIZE = 400


def load(name: str, path: Path) -> Any:
    return ENGINE.load_model(name, task="document-analysis", path=path)


def word(text: str, index: int) -> dict[str, Any]:
    """Return a word of a page with ten to a line."""
    left, top = 10 + 38 * (index % 10), 20 + 30 * (index // 10)
    return {"text": text, "box": [left, top, left + 30, top + 16]}


def page(number: int, picture: Image.Image | None, words: list[dict[str, Any]] | None) -> dict[str, Any]:
    return {
        "number": number,
        "width": SIZE,
        "height": SIZE,
        "dpi": 150.0,
        "image": picture,
        "words": words,
        "layer": [],
    }


def text_page(texts: list[str], number: int = 1, *, image: bool = False) -> dict[str, Any]:
    words = [word(text, index) for index, text in enumerate(texts)]
    picture = Image.new("RGB", (SIZE, SIZE), (200, 120, 40)) if image else None
    return page(number, picture, words)


def scanned_page(number: int = 1) -> dict[str, Any]:
    picture = Image.new("RGB", (SIZE, SIZE), "white")
    return page(number, picture, None)


@pytest.fixture(scope="module")
def layoutlm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load("layoutlm", save_layoutlm(tmp_path_factory.mktemp("layoutlm")))


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load("llava", save_llava(tmp_path_factory.mktemp("llava")))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("reader")
    save_page_reader(folder)
    return load("reader", folder)


def librarys_answer(layoutlm: Any, page: dict[str, Any]) -> Any:
    finder = layoutlm.finder
    asked = pipeline("document-question-answering", model=finder.model, tokenizer=finder._tokenizer)
    boxes = [[int(1000 * side / SIZE) for side in word["box"]] for word in page["words"]]
    words = [word["text"] for word in page["words"]]
    [found] = asked({"question": QUESTION, "word_boxes": list(zip(words, boxes, strict=True)), "image": None})
    return found


@pytest.mark.parametrize("texts", [LETTERS[:9], LETTERS[::-1], LETTERS * 5], ids=["short", "long", "windows"])
def test_an_answer_is_that_of_the_librarys_own_pipeline(layoutlm: Any, texts: list[str]) -> None:
    page = text_page(texts)
    result = ENGINE.infer(layoutlm, {"pages": [page], "question": QUESTION}, {})
    expected = librarys_answer(layoutlm, page)
    assert result["answer"] == expected["answer"]
    assert result["answer"]
    assert result["answer_score"] == pytest.approx(expected["score"], abs=1e-6)
    assert result["answer_page"] == 1
    assert result["pages"][0]["text"].split() == texts


def test_the_surest_answer_of_all_pages_counts(layoutlm: Any) -> None:
    pages = [text_page(LETTERS[start : start + 6], number) for number, start in ((2, 0), (5, 9), (7, 18))]
    alone = [ENGINE.infer(layoutlm, {"pages": [page], "question": QUESTION}, {}) for page in pages]
    together = ENGINE.infer(layoutlm, {"pages": pages, "question": QUESTION}, {})
    best = max(alone, key=lambda result: result["answer_score"])
    assert together["answer"] == best["answer"]
    assert together["answer_page"] == best["answer_page"]
    assert [page["number"] for page in together["pages"]] == [2, 5, 7]


def test_a_model_that_sees_the_page_gives_the_answer_of_its_own_scores(tmp_path: Path) -> None:
    runner = load("layoutlmv3", save_layoutlmv3(tmp_path))
    texts = LETTERS[:12]
    page = text_page(texts, image=True)
    result = ENGINE.infer(runner, {"pages": [page], "question": "what?"}, {})
    finder = runner.finder
    boxes = [[int(1000 * side / SIZE) for side in word["box"]] for word in page["words"]]
    encoded = finder._tokenizer(["what?"], [texts], boxes=[boxes], return_tensors="pt")
    pixels = finder._image_processor(images=page["image"], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        found = finder.model(**to_model(finder.model, {**encoded, "pixel_values": pixels}))
    sides, owners = encoded.sequence_ids(0), encoded.word_ids(0)
    allowed = torch.tensor([side == 1 for side in sides])
    count = len(owners)
    first, last, score = best_span(found.start_logits[0, :count].cpu(), found.end_logits[0, :count].cpu(), allowed)
    assert result["answer"] == " ".join(texts[owners[first] : owners[last] + 1])
    assert result["answer"]
    assert result["answer_score"] == pytest.approx(score, abs=1e-5)


def test_a_vlm_answers_about_the_pictures_of_all_pages_and_keeps_their_text(llava: Any) -> None:
    pages = [text_page(LETTERS[:4], 1, image=True), scanned_page(2)]
    result = ENGINE.infer(llava, {"pages": pages, "question": "a b"}, {"max_new_tokens": 5})
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "a b"}]
    asked = {"images": [page["image"] for page in pages], "messages": [{"role": "user", "content": content}]}
    [expected] = llava.asked.run([asked], [{"max_new_tokens": 5}])
    assert result["answer"] == expected["generated_text"].strip()
    read = ENGINE.infer(llava, {"pages": pages}, {"max_new_tokens": 5})
    assert result["pages"] == read["pages"]


def test_a_question_costs_no_page_its_text_and_what_was_cut_says_so(llava: Any) -> None:
    pages = [text_page(LETTERS[:4], 1, image=True), scanned_page(2)]
    result = ENGINE.infer(llava, {"pages": pages, "question": "a b"}, {"max_new_tokens": 5})
    layer, scan = result["pages"]
    assert (layer["text"], "finish_reason" in layer) == ("a b c d", False)
    content = [{"type": "image"}, {"type": "text", "text": TRANSCRIBE}]
    asked = {"images": [pages[1]["image"]], "messages": [{"role": "user", "content": content}]}
    [expected] = llava.asked.run([asked], [{"max_new_tokens": 5}])
    assert scan["text"] == expected["generated_text"].strip() != ""
    assert scan["finish_reason"] == "length"


def test_a_vlm_transcribes_a_scanned_page_where_nothing_is_asked(llava: Any) -> None:
    result = ENGINE.infer(llava, {"pages": [scanned_page()]}, {"max_new_tokens": 5})
    assert result["pages"][0]["text"]
    assert result["pages"][0]["regions"] == []
    assert "answer" not in result


def test_a_vlm_runs_by_the_settings_and_leaves_the_memory_with_its_task(tmp_path: Path) -> None:
    settings = on_this_machine(kv_cache_bytes=123_456_789)
    runner: Any = TransformersEngine(settings).load_model("llava", task="document-analysis", path=save_llava(tmp_path))
    ENGINE.infer(runner, {"pages": [scanned_page()]}, {"max_new_tokens": 2})
    assert runner.asked.limits.max_bytes == 123_456_789
    model = weakref.ref(runner.asked.model)
    assert ENGINE.unload_model(runner)
    gc.collect()
    assert model() is None, "its loop keeps it"


def test_pages_with_a_text_layer_are_never_read_from_their_picture(
    reader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Image.Image] = []
    read = reader.reader.read

    def watched(image: Image.Image) -> Any:
        seen.append(image)
        return read(image)

    monkeypatch.setattr(reader.reader, "read", watched)
    pages = [text_page(["a", "b"], 1, image=True), scanned_page(2), text_page(["c"], 3)]
    result = ENGINE.infer(reader, {"pages": pages}, {})
    assert seen == [pages[1]["image"]]
    assert [page["text"] for page in result["pages"]] == ["a b", "", "c"]
    assert result["pages"][0]["regions"] == [{"text": "a b", "box": [10, 20, 78, 36]}]


def test_a_scan_with_a_stamp_is_read_and_one_that_cannot_be_is_told_by_its_stamp(
    reader: Any, layoutlm: Any, llava: Any
) -> None:
    stamped = {**scanned_page(), "layer": [word("stamp", 0)]}
    [read] = ENGINE.infer(reader, {"pages": [stamped]}, {})["pages"]
    assert (read["text_source"], read["text"], read["dpi"]) == ("mixed", "stamp", 150.0)
    [told] = ENGINE.infer(llava, {"pages": [stamped]}, {"max_new_tokens": 5})["pages"]
    assert told["text_source"] == "mixed"
    assert told["text"].endswith("stamp")
    [unread] = ENGINE.infer(layoutlm, {"pages": [stamped], "question": QUESTION}, {})["pages"]
    assert (unread["text_source"], unread["unread_pictures"]) == ("text_layer", True)


def test_a_question_to_a_model_that_only_reads_names_those_that_answer(reader: Any) -> None:
    refused, read = ENGINE.infer_batch(
        reader, [{"pages": [text_page(["a"])], "question": QUESTION}, {"pages": [text_page(["a"])]}], [{}, {}]
    )
    assert isinstance(refused, InvalidInput)
    assert "name a document question answering model or an image-text-to-text model" in refused.message
    assert isinstance(read, dict)


def test_a_scanned_page_is_refused_by_a_model_that_needs_words(layoutlm: Any) -> None:
    [outcome] = ENGINE.infer_batch(
        layoutlm, [{"pages": [text_page(["a"]), scanned_page(2)], "question": QUESTION}], [{}]
    )
    assert isinstance(outcome, InvalidInput)
    assert "has no text layer on page 2, and model layoutlm cannot read pictures" in outcome.message


def test_a_scanned_page_is_read_first_where_the_folder_has_a_page_reader_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_layoutlm(tmp_path)
    save_page_reader(tmp_path)
    runner = load("both", tmp_path)
    assert sorted(runner.model) == ["finder", "reader"]

    from engines.transformers.documents.ocr_pages import PageText

    line = {"text": "a b c", "box": [100, 50, 200, 70], "score": 0.9}
    monkeypatch.setattr(runner.reader, "read", lambda image: PageText("a b c", [line]))
    result = ENGINE.infer(runner, {"pages": [scanned_page()], "question": QUESTION}, {})
    same = {
        **scanned_page(),
        "words": [
            {"text": text, "box": [left, 50, left + 20, 70]} for text, left in (("a", 100), ("b", 140), ("c", 180))
        ],
    }
    assert result["answer"] == ENGINE.infer(runner, {"pages": [same], "question": QUESTION}, {})["answer"]
    assert result["pages"][0]["regions"] == [line]


def test_a_question_longer_than_the_model_reads_is_refused(layoutlm: Any) -> None:
    [outcome] = ENGINE.infer_batch(layoutlm, [{"pages": [text_page(["a"])], "question": "the " * 60}], [{}])
    assert isinstance(outcome, InvalidInput)
    assert "data.question is too long: model layoutlm reads 48 tokens" in outcome.message


def test_pages_without_a_word_have_no_answer(layoutlm: Any) -> None:
    result = ENGINE.infer(layoutlm, {"pages": [text_page([])], "question": QUESTION}, {})
    assert (result["answer"], result["answer_score"]) == ("", 0.0)


def test_options_of_generation_are_refused_where_nothing_is_generated(layoutlm: Any) -> None:
    [outcome] = ENGINE.infer_batch(layoutlm, [{"pages": [text_page(["a"])]}], [{"temperature": 1.0}])
    assert isinstance(outcome, InvalidOption)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="needs a document question answering or image-text-to-text"):
        load("llama", save_llama(tmp_path))


def test_only_allowed_tokens_begin_and_end_an_answer_of_at_most_15() -> None:
    start = torch.tensor([9.0, 8.0, 1.0, *[0.0] * 20])
    end = torch.tensor([9.0, 8.0, 1.0, *[0.0] * 19, 5.0])
    allowed = torch.tensor([False, False, *[True] * 21])
    first, last, score = best_span(start, end, allowed)
    assert (first, last) == (8, 22)
    shares = [scores[[0, *range(2, 23)]].softmax(0) for scores in (start, end)]
    assert score == pytest.approx(float(shares[0][7] * shares[1][21]))
