"""ocr and document-analysis on real weights: PP-OCRv5 reads lines, pages, columns, scans and mixed documents."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deploy.local import LocalStack
from engines.config.settings import CacheSettings, EngineSettings, MlflowSettings
from engines.inference import InferenceManager
from engines.transformers.engine import TransformersEngine
from handlers.document_analysis import DocumentAnalysisHandler
from handlers.errors import InvalidInput
from handlers.ocr import OcrHandler
from tests.device import on_this_machine
from tests.documents import Line, font, picture, rendered, scanned_pdf, text_pdf

ENGINE = TransformersEngine(on_this_machine())
SENTENCES = ("Invoice No. 2024-0117", "Total: $1,234.56", "Hello, World!", "The quick brown fox")
INVOICE = (
    Line(40, 30, "ACME Corporation", 28),
    Line(40, 120, "Invoice No. 2024-0117", 28),
    Line(40, 220, "Total: $1,234.56", 28),
)
LEFT = (
    "The left column begins here",
    "and goes on with a second",
    "line before the third one",
    "ends the left column.",
)
RIGHT = (
    "The right column comes next",
    "with lines at the same heights",
    "as those of the left column",
    "and it ends the page.",
)
TITLE, FOOTER = "A Title Across Both Columns", "Page 1 of 1, the footer"
COLUMNS = (
    Line(200, 30, TITLE, 34),
    *(Line(40, 120 + 44 * index, text, 22) for index, text in enumerate(LEFT)),
    *(Line(460, 120 + 44 * index, text, 22) for index, text in enumerate(RIGHT)),
    Line(330, 330, FOOTER, 20),
)
IN_ORDER = "\n".join((TITLE, *LEFT, *RIGHT, FOOTER))


@pytest.fixture(scope="module")
def reader(pp_ocr_path: Path) -> Any:
    return ENGINE.load_model("pp-ocrv5-mobile", task="ocr", path=pp_ocr_path)


@pytest.fixture(scope="module")
def recognizer(pp_ocr_path: Path) -> Any:
    return ENGINE.load_model("pp-ocrv5-mobile-rec", task="ocr", path=pp_ocr_path / "recognition")


@pytest.fixture(scope="module")
def analyst(pp_ocr_path: Path) -> Any:
    return ENGINE.load_model("pp-ocrv5-mobile", task="document-analysis", path=pp_ocr_path)


def read(runner: Any, image: Image.Image) -> dict[str, Any]:
    handler = OcrHandler()
    return handler.postprocess(ENGINE.infer(runner, handler.preprocess({"image": image}, {}), {}), {})


def analysed(runner: Any, document: bytes, **more: Any) -> dict[str, Any]:
    handler = DocumentAnalysisHandler()
    inputs = handler.preprocess({"document": document, **more}, {})
    return handler.postprocess(ENGINE.infer(runner, inputs, {}), {})


def line_picture(text: str) -> Image.Image:
    width = int(font(32).getlength(text)) + 16
    return picture([Line(8, 5, text, 32)], size=(width, 48))


def drawn_box(line: Line) -> tuple[float, float, float, float]:
    return font(line.size).getbbox(line.text)


def check_places(found: Sequence[dict[str, Any]], drawn: Sequence[Line], *, within: float) -> None:
    """Check that every line lies around what was drawn, at most `within` pixels beyond on each side."""
    for line, region in zip(drawn, found, strict=True):
        left, top, right, bottom = drawn_box(line)
        expected = (line.x + left, line.y + top, line.x + right, line.y + bottom)
        assert region["text"] == line.text
        assert np.abs(np.subtract(region["box"], expected)).max() <= within, (region, expected)
        assert 0.9 < region["score"] <= 1


def test_single_lines_are_read_letter_by_letter(recognizer: Any) -> None:
    outcomes = ENGINE.infer_batch(recognizer, [{"image": line_picture(text)} for text in SENTENCES], [{}] * 4)
    for text, outcome in zip(SENTENCES, outcomes, strict=True):
        assert isinstance(outcome, dict)
        assert outcome["text"] == text
        assert 0.9 < outcome["lines"][0]["score"] <= 1


def test_a_line_is_what_the_model_itself_says_of_it(recognizer: Any, pp_ocr_path: Path) -> None:
    """The model, used directly as its authors do: blue first, within -1..1, padded; repeats and blanks dropped."""
    from transformers import AutoModelForTextRecognition

    model: Any = AutoModelForTextRecognition.from_pretrained(pp_ocr_path / "recognition").eval()
    settings = json.loads((pp_ocr_path / "recognition" / "preprocessor_config.json").read_text())
    for text in SENTENCES:
        image = line_picture(text)
        width = -(-image.width // 160) * 160
        pixels = torch.zeros(1, 3, 48, max(320, width))
        array = np.asarray(image, np.float32)[:, :, ::-1].copy()
        pixels[0, :, :, : image.width] = torch.from_numpy(array).permute(2, 0, 1) / 127.5 - 1
        with torch.no_grad():
            chances, classes = model(pixel_values=pixels).last_hidden_state[0].max(-1)
        kept = [
            step for step, index in enumerate(classes.tolist()) if index and (step == 0 or index != classes[step - 1])
        ]
        result = read(recognizer, image)
        text = "".join(settings["character_list"][classes[step]] for step in kept)
        assert result["text"] == text.strip()
        assert result["lines"][0]["score"] == pytest.approx(float(chances[kept].mean()), abs=1e-4)


def test_a_page_comes_line_by_line_with_places_and_scores(reader: Any) -> None:
    result = read(reader, picture(INVOICE, size=(640, 320)))
    assert result["text"] == "\n".join(line.text for line in INVOICE)
    assert result["metadata"] == {"width": 640, "height": 320}
    check_places(result["lines"], INVOICE, within=8)


def test_two_columns_with_level_lines_are_read_one_after_the_other(reader: Any) -> None:
    result = read(reader, picture(COLUMNS, size=(860, 380)))
    assert result["text"] == IN_ORDER
    assert not any("polygon" in line for line in result["lines"])
    check_places(result["lines"], COLUMNS, within=8)


@pytest.mark.parametrize("degrees", [2, -2, 10])
def test_a_page_that_lies_askew_is_read_as_well(reader: Any, degrees: float) -> None:
    page = picture(COLUMNS, size=(860, 380))
    askew = page.rotate(degrees, expand=True, fillcolor="white", resample=Image.Resampling.BICUBIC)
    result = read(reader, askew)
    assert result["text"] == IN_ORDER
    for line in result["lines"]:
        left, top, right, bottom = line["box"]
        assert 0 <= left < right <= askew.width
        assert 0 <= top < bottom <= askew.height
        if degrees == 10:  # what is tilted less may come as level
            (x, y), (to_x, to_y), *_ = line["polygon"]
            assert math.degrees(math.atan2(to_y - y, to_x - x)) == pytest.approx(-degrees, abs=1)


def test_a_page_as_a_bad_camera_sees_it_is_read_as_well(reader: Any) -> None:
    page = np.asarray(picture(COLUMNS, size=(860, 380)), np.float32)
    noise = np.random.default_rng(0).normal(0, 12, page.shape)
    light = np.linspace(0.55, 1.0, page.shape[1])[None, :, None]  # darker to the left
    file = io.BytesIO()
    Image.fromarray(((page * 0.7 + 50) * light + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=40)
    # Of small print in such a picture the recognizer tells the letters, though not every space between them.
    assert read(reader, Image.open(file))["text"].replace(" ", "") == IN_ORDER.replace(" ", "")


def test_light_coloured_and_upright_text_is_read(reader: Any) -> None:
    line = [Line(30, 30, "Hello, World!", 30)]
    page = picture(line, size=(320, 90))
    inverted = Image.fromarray(255 - np.asarray(page))
    red = picture(line, size=(320, 90), colour="red")
    for image in (
        inverted,
        red,
        page.transpose(Image.Transpose.ROTATE_90),
        page.transpose(Image.Transpose.ROTATE_270),
    ):
        assert read(reader, image)["text"] == "Hello, World!"


def test_a_page_without_text_has_none(reader: Any) -> None:
    for image in (Image.new("RGB", (500, 400), "white"), Image.new("RGB", (3, 2), "black")):
        result = read(reader, image)
        assert (result["text"], result["lines"]) == ("", [])


def test_small_text_in_a_picture_that_is_far_larger_is_read(reader: Any, analyst: Any) -> None:
    lines = [Line(40, y, f"Part {y} of the message", 34) for y in range(150, 12_000, 1370)]
    screenshot = picture(lines, size=(1080, 12_000))
    result = read(reader, screenshot)
    assert result["text"] == "\n".join(line.text for line in lines)
    check_places(result["lines"], lines, within=20)
    file = io.BytesIO()
    screenshot.save(file, "PNG")
    assert analysed(analyst, file.getvalue())["pages"][0]["text"] == result["text"]


def test_a_batch_of_pages_gives_each_what_it_gets_alone(reader: Any) -> None:
    inputs = [
        {"image": picture(INVOICE, size=(640, 320))},
        {"image": Image.new("RGB", (99, 40), "white")},
        {"image": picture(COLUMNS[:3], size=(860, 380))},
    ]
    together = ENGINE.infer_batch(reader, inputs, [{}] * 3)
    assert together == [ENGINE.infer(reader, one, {}) for one in inputs]


PAPER = [
    [
        Line(60, 60, "A Letter of Two Pages", 22),
        Line(60, 110, "It says what it has to say in lines of text."),
        Line(60, 130, "Some are longer than others (by a few words), some are not."),
    ],
    [Line(60, 60, "The second page ends with a sum: 12.50 EUR", 14)],
]


def test_a_text_layer_and_its_scan_agree(analyst: Any) -> None:
    document = text_pdf(PAPER)
    written, scanned = analysed(analyst, document), analysed(analyst, scanned_pdf(rendered(document)))
    for page, twin, lines in zip(written["pages"], scanned["pages"], PAPER, strict=True):
        assert page["text"] == "\n".join(line.text for line in lines)
        assert twin["text"] == page["text"]
        assert twin["number"] == page["number"]
        for region, seen in zip(page["regions"], twin["regions"], strict=True):
            assert "score" not in region
            assert 0.9 < seen["score"] <= 1
            assert seen["text"] == region["text"]
            assert np.abs(np.subtract(seen["box"], region["box"])).max() < 14


def test_pages_with_and_without_a_text_layer_in_one_document(analyst: Any) -> None:
    import pypdfium2  # type: ignore[import-untyped]

    document = text_pdf(PAPER)
    with (
        pypdfium2.PdfDocument.new() as mixed,
        pypdfium2.PdfDocument(document) as written,
        pypdfium2.PdfDocument(scanned_pdf(rendered(document))) as scanned,
    ):
        mixed.import_pages(written, [0])
        mixed.import_pages(scanned, [1])
        mixed.import_pages(written, [1])
        file = io.BytesIO()
        mixed.save(file)
    result = analysed(analyst, file.getvalue())
    first, second, third = result["pages"]
    assert first["text"] == "\n".join(line.text for line in PAPER[0])
    assert second["text"] == third["text"] == PAPER[1][0].text
    assert ["score" in page["regions"][0] for page in result["pages"]] == [False, True, False]
    assert [page["number"] for page in analysed(analyst, file.getvalue(), pages="2-3")["pages"]] == [2, 3]


def test_columns_of_a_text_layer_are_read_in_order_too(analyst: Any) -> None:
    rows = [
        line
        for index, (left, right) in enumerate(zip(LEFT, RIGHT, strict=True))
        for line in (Line(60, 120 + 16 * index, left), Line(320, 120 + 16 * index, right))
    ]
    document = text_pdf([[Line(180, 60, TITLE, 20), *rows, Line(240, 700, FOOTER)]])
    written, scanned = analysed(analyst, document), analysed(analyst, scanned_pdf(rendered(document)))
    assert written["pages"][0]["text"] == IN_ORDER
    # At this size the recognizer drops the space before the 1 of "1 of 1".
    assert scanned["pages"][0]["text"].replace(" ", "") == IN_ORDER.replace(" ", "")


def test_pages_of_a_tiff_are_read(analyst: Any) -> None:
    file = io.BytesIO()
    pages = [picture([line], size=(640, 320)) for line in INVOICE]
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    result = analysed(analyst, file.getvalue(), pages=[1, 3])
    assert [(page["number"], page["text"]) for page in result["pages"]] == [
        (1, INVOICE[0].text),
        (3, INVOICE[2].text),
    ]


def test_small_print_is_read(analyst: Any) -> None:
    text = "The quick brown fox jumps over the lazy dog and runs far away."
    document = scanned_pdf(rendered(text_pdf([[Line(60, 80 + 12 * index, text, 8) for index in range(4)]])))
    assert analysed(analyst, document)["pages"][0]["text"] == "\n".join([text] * 4)


def test_a_question_is_refused_and_says_what_answers(analyst: Any) -> None:
    with pytest.raises(InvalidInput, match="name a document question answering model or an image-text-to-text"):
        analysed(analyst, text_pdf(PAPER), question="What is the sum?")


def test_one_registered_model_serves_both_of_its_tasks(
    local_stack: LocalStack, real_models: None, tmp_path: Path
) -> None:
    settings = EngineSettings(
        mlflow=MlflowSettings(tracking_uri=local_stack.mlflow.url),
        cache=CacheSettings(directory=tmp_path),
        transformers=on_this_machine(),
    )
    manager = InferenceManager.from_settings(settings)
    try:
        page = picture(INVOICE, size=(640, 320))
        asked: dict[str, Any] = {"engine": "transformers", "model_name": "pp-ocrv5-mobile"}
        read = manager.infer(task="ocr", data={"image": page}, **asked)
        assert read["success"], read
        assert read["result"]["text"] == "\n".join(line.text for line in INVOICE)
        found = manager.infer(task="document-analysis", data={"document": scanned_pdf([page])}, **asked)
        assert found["success"], found
        # Rendered anew from the PDF the page is a little softer, so that a space in it may get lost.
        scanned = found["result"]["pages"][0]["text"].replace(" ", "")
        assert scanned == read["result"]["text"].replace(" ", "")
        json.dumps([read, found])
        refused = manager.infer(task="asr", data={"audio": b""}, **asked)
        assert refused["error"]["code"] == "MODEL_MISMATCH"
    finally:
        manager.close()
