"""ocr by every kind of model, on random weights: against the library's own decoding, refusals, batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engines.transformers.documents.ocr import TRANSCRIBE
from engines.transformers.engine import TransformersEngine
from engines.transformers.vlm import VlmRunner
from handlers.errors import InvalidInput, InvalidOption, ModelLoadFailed
from tests.device import on_this_machine
from tests.unit.engines.tiny_models import save_llama
from tests.unit.engines.tiny_readers import (
    CHARACTERS,
    save_layoutlm,
    save_page_reader,
    save_recognizer,
    save_trocr,
)
from tests.unit.engines.tiny_vlms import save_llava

ENGINE = TransformersEngine(on_this_machine())
SIZES = ((90, 30), (400, 40), (700, 48), (60, 60))


def load(name: str, path: Path) -> Any:
    return ENGINE.load_model(name, task="ocr", path=path)


def inputs(size: tuple[int, int], **more: Any) -> dict[str, Any]:
    """Return the inputs with a picture of coloured stripes, so that a line differs from step to step."""
    stripes = np.random.default_rng(size).integers(0, 256, (1, size[0] // 16 + 1, 3), np.uint8)
    return {"image": Image.fromarray(stripes).resize(size, Image.Resampling.NEAREST), **more}


@pytest.fixture(scope="module")
def trocr(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load("trocr", save_trocr(tmp_path_factory.mktemp("trocr")))


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load("lines", save_recognizer(tmp_path_factory.mktemp("recognizer")))


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load("llava", save_llava(tmp_path_factory.mktemp("llava")))


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    save_page_reader(tmp_path)
    return tmp_path


def librarys_text(trocr: Any, image: Image.Image, **more: Any) -> str:
    pixels = trocr.image_processor(images=image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        found = trocr.model.generate(pixel_values=pixels.to(trocr.model.device), do_sample=False, **more)
    text: str = trocr.tokenizer.decode(found[0], skip_special_tokens=True)
    return text.strip()


def test_an_encoder_decoder_reads_what_the_librarys_own_generate_does(trocr: Any) -> None:
    outcomes = ENGINE.infer_batch(trocr, [inputs(size) for size in SIZES], [{"max_new_tokens": 12}] * 4)
    texts = []
    for size, outcome in zip(SIZES, outcomes, strict=True):
        assert isinstance(outcome, dict)
        assert outcome["text"] == librarys_text(trocr, inputs(size)["image"], max_new_tokens=12)
        assert (outcome["width"], outcome["height"]) == size
        texts.append(outcome["text"])
    assert len(set(texts)) > 1
    assert all(texts)


def test_beam_search_of_an_encoder_decoder_is_the_librarys(trocr: Any) -> None:
    found = ENGINE.infer(trocr, inputs(SIZES[1]), {"max_new_tokens": 10, "num_beams": 3})
    assert found["text"] == librarys_text(trocr, inputs(SIZES[1])["image"], max_new_tokens=10, num_beams=3)


def test_rows_of_an_encoder_decoder_keep_budgets_of_their_own(trocr: Any) -> None:
    budgets = (3, 9, 1)
    outcomes = ENGINE.infer_batch(trocr, [inputs(SIZES[1])] * 3, [{"max_new_tokens": budget} for budget in budgets])
    for budget, outcome in zip(budgets, outcomes, strict=True):
        assert isinstance(outcome, dict)
        assert outcome["completion_tokens"] == budget
        assert outcome["finish_reason"] == "length"


def test_a_recognizer_reads_what_its_model_says_step_by_step(recognizer: Any) -> None:
    result = ENGINE.infer(recognizer, inputs((320, 48)), {})
    pixels = torch.from_numpy(np.asarray(inputs((320, 48))["image"], np.float32)[:, :, ::-1].copy()) / 127.5 - 1
    pixels = pixels.permute(2, 0, 1)[None].to(recognizer.model.device)
    with torch.no_grad():
        steps = recognizer.model(pixel_values=pixels).last_hidden_state[0]
    text, before, chances = "", 0, []
    for step in steps:
        best = int(step.argmax())
        if best not in (0, before):
            text += CHARACTERS[best]
            chances.append(float(step[best]))
        before = best
    assert result["text"] == text.strip()
    assert len(text.strip()) > 1
    assert result["lines"] == [
        {
            "text": text.strip(),
            "box": [0, 0, 320, 48],
            "score": pytest.approx(sum(chances) / len(chances), abs=1e-5),
        }
    ]


def test_a_batch_of_lines_gives_each_what_it_gets_alone(recognizer: Any) -> None:
    batch = [inputs(size) for size in SIZES]
    together = ENGINE.infer_batch(recognizer, batch, [{}] * 4)
    assert together == [ENGINE.infer(recognizer, one, {}) for one in batch]


def test_a_model_that_is_asked_gets_the_prompt_or_one_of_ours(llava: Any) -> None:
    as_vlm = VlmRunner(llava)
    for more, prompt in (({"prompt": "a b"}, "a b"), ({}, TRANSCRIBE)):
        one = inputs((40, 24), **more)
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        asked = {"images": [one["image"]], "messages": [{"role": "user", "content": content}]}
        expected = ENGINE.infer(as_vlm, asked, {"max_new_tokens": 6})
        result = ENGINE.infer(llava, one, {"max_new_tokens": 6})
        assert result["text"] == expected["generated_text"].strip()
        assert (result["width"], result["height"]) == (40, 24)


def test_options_of_generation_are_refused_where_nothing_is_generated(recognizer: Any) -> None:
    refused, read = ENGINE.infer_batch(recognizer, [inputs((90, 30))] * 2, [{"temperature": 0.5}, {}])
    assert isinstance(refused, InvalidOption)
    assert refused.message.startswith("options.temperature: model lines reads without generating text")
    assert isinstance(read, dict)


def test_a_prompt_is_refused_by_models_that_cannot_be_asked(recognizer: Any, trocr: Any) -> None:
    for runner in (recognizer, trocr):
        [outcome] = ENGINE.infer_batch(runner, [inputs((90, 30), prompt="Read this.")], [{}])
        assert isinstance(outcome, InvalidInput)
        assert outcome.message.startswith("data.prompt is for image-text-to-text models")


def test_a_folder_of_two_models_counts_and_frees_both(pages: Path) -> None:
    import gc
    import weakref

    runner = load("pages", pages)
    weights = [weakref.ref(model) for model in runner.model.values()]
    assert len(weights) == 2
    assert ENGINE.model_bytes(runner) == sum(
        tensor.numel() * tensor.element_size()
        for model in runner.model.values()
        for tensor in (*model.parameters(), *model.buffers())
    )
    assert ENGINE.unload_model(runner)
    assert not ENGINE.unload_model(runner)
    gc.collect()
    assert [reference() for reference in weights] == [None, None]


def test_an_empty_page_has_no_text(pages: Path) -> None:
    result = ENGINE.infer(load("pages", pages), {"image": Image.new("RGB", (64, 32), "white")}, {})
    assert result == {"text": "", "lines": [], "width": 64, "height": 32}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"character_list": ["blank", "a"]}, "has 2 characters for 10 classes"),
        ({}, "has 0 characters for 10 classes"),
        (None, "has no readable preprocessor_config.json"),
        ([], "has no readable preprocessor_config.json: Expected `object`, got `array`"),
    ],
)
def test_a_recognizer_without_its_characters_is_refused(tmp_path: Path, settings: Any, complaint: str) -> None:
    path = save_recognizer(tmp_path) / "preprocessor_config.json"
    path.unlink()
    if settings is not None:
        path.write_text(json.dumps(settings))
    with pytest.raises(ModelLoadFailed, match=complaint):
        load("lines", tmp_path)


def test_a_part_of_the_wrong_kind_is_named(pages: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    wrong = save_recognizer(tmp_path_factory.mktemp("wrong"))
    (pages / "detection").rename(pages / "other")
    wrong.rename(pages / "detection")
    with pytest.raises(ModelLoadFailed, match=r"model pages \(detection\) is a PPOCRV5MobileRecForText"):
        load("pages", pages)


@pytest.mark.parametrize("save", [save_llama, save_layoutlm])
def test_a_model_that_does_not_read_pictures_is_refused(tmp_path: Path, save: Any) -> None:
    with pytest.raises(ModelLoadFailed, match="needs folders detection/ and recognition/ or a text recognition model"):
        load("other", save(tmp_path))
