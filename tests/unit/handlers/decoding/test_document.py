"""Documents as pages: text layers with places, scans, TIFFs, chosen pages, limits, and what is refused."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageChops

from handlers.decoding.document import read_document
from handlers.decoding.document_pages import Page
from handlers.errors import InvalidInput, MediaCorrupt, MediaTooLarge
from handlers.media import Media
from handlers.settings import MediaSettings
from tests.documents import Line, rendered, scanned_pdf, text_pdf

LIMITS = MediaSettings()
TWO_PAGES = [
    [Line(50, 60, "Invoice No. 2024-0117", 20), Line(50, 100, "Total: (five) dollars")],
    [Line(50, 60, "Second page")],
]


def read(value: Any, **more: Any) -> list[Page]:
    return read_document(value, field="data.document", **{"limits": LIMITS, **more})


def words(page: Page) -> list[str]:
    assert page["words"] is not None
    return [word["text"] for word in page["words"]]


def picture(colour: str = "white", size: tuple[int, int] = (60, 40)) -> Image.Image:
    return Image.new("RGB", size, colour)


def tiff(*pictures: Image.Image) -> bytes:
    file = io.BytesIO()
    pictures[0].save(file, "TIFF", save_all=True, append_images=pictures[1:])
    return file.getvalue()


def encoded(kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    picture().save(file, kind, **how)
    return file.getvalue()


def test_a_text_layer_comes_as_words_in_order_without_a_picture() -> None:
    first, second = read(text_pdf(TWO_PAGES))
    assert words(first) == ["Invoice", "No.", "2024-0117", "Total:", "(five)", "dollars"]
    assert words(second) == ["Second", "page"]
    assert (first["number"], second["number"]) == (1, 2)
    assert first["image"] is None
    assert (first["width"], first["height"]) == (1240, 1755)  # A4 at 150 pixels an inch


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_words_lie_where_the_page_shows_them_however_it_is_turned(rotate: int) -> None:
    [page] = read(text_pdf(TWO_PAGES[:1], rotate=rotate), with_images=True)
    assert page["image"] is not None
    assert page["image"].size == (page["width"], page["height"])
    ink = ImageChops.invert(page["image"].convert("L"))
    everything = np.asarray(ink).sum(dtype=np.int64)
    inside = 0
    assert page["words"] is not None
    for word in page["words"]:
        left, top, right, bottom = word["box"]
        part = np.asarray(ink)[top - 1 : bottom + 1, left - 1 : right + 1]
        assert part.sum() > 0
        inside += part.sum(dtype=np.int64)
    assert inside > 0.99 * everything


def test_letters_beyond_ascii_are_kept() -> None:
    [page] = read(text_pdf([[Line(50, 60, "naïve – café 5 €")]]))
    assert words(page) == ["naïve", "–", "café", "5", "€"]


def test_words_outside_the_page_are_no_part_of_it() -> None:
    [page] = read(text_pdf([[Line(50, 60, "seen"), Line(700, 60, "right"), Line(50, 1000, "below")]]))
    assert words(page) == ["seen"]


def test_a_scanned_page_has_a_picture_and_no_words() -> None:
    pictures = rendered(text_pdf(TWO_PAGES))
    first, second = read(scanned_pdf(pictures))
    assert first["words"] is None
    assert second["words"] is None
    assert first["image"] is not None
    assert first["image"].mode == "RGB"
    assert np.allclose(first["image"].size, pictures[0].size, atol=2)
    difference = ImageChops.difference(first["image"].resize(pictures[0].size), pictures[0])
    assert np.asarray(difference).mean() < 2


def test_a_picture_is_the_callers_own_and_outlives_the_file() -> None:
    [page] = read(scanned_pdf([picture("red", (300, 200))]))
    assert page["image"] is not None
    page["image"].putpixel((0, 0), (1, 2, 3))
    assert page["image"].getpixel((0, 0)) == (1, 2, 3)


def test_an_image_is_a_document_of_one_page() -> None:
    file = io.BytesIO()
    picture("blue").save(file, "PNG")
    for value in (
        file.getvalue(),
        Media(file.getvalue(), "s3://b/scan.png"),
        picture("blue"),
        np.zeros((40, 60, 3), np.uint8),
    ):
        [page] = read(value)
        assert (page["number"], page["width"], page["height"], page["words"]) == (1, 60, 40, None)
        assert page["image"] is not None


def test_a_tiff_has_as_many_pages_as_pictures() -> None:
    pages = read(tiff(picture("red"), picture("lime", (20, 30)), picture("blue")), pages="2-3")
    assert [(page["number"], page["width"], page["height"]) for page in pages] == [(2, 20, 30), (3, 60, 40)]
    assert [page["image"].getpixel((5, 5)) for page in pages if page["image"]] == [(0, 255, 0), (0, 0, 255)]


def test_a_document_locked_by_a_password_says_what_to_do() -> None:
    with pytest.raises(InvalidInput, match="is a PDF that a password protects; save it without one"):
        read(text_pdf(TWO_PAGES, password="secret"))


def test_a_document_that_anybody_may_open_is_read_though_it_is_encrypted() -> None:
    assert words(read(text_pdf(TWO_PAGES, password=""))[0])[0] == "Invoice"


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_a_document_cut_short_is_refused(kept: float) -> None:
    whole = text_pdf(TWO_PAGES)
    with pytest.raises(MediaCorrupt, match="is cut short: it has no end-of-file mark; send a whole PDF file"):
        read(Media(whole[: int(len(whole) * kept)], "s3://b/cut.pdf"))


@pytest.mark.parametrize(
    ("before", "behind"),
    [(0, 1000), (0, 4096), (0, 1_000_000), (1000, 0), (4096, 0), (4096, 4096)],
)
def test_junk_around_a_document_is_passed_over(before: int, behind: int) -> None:
    content = b"junk" * (before // 4) + text_pdf(TWO_PAGES) + bytes(behind)
    assert [words(page)[0] for page in read(content)] == ["Invoice", "Second"]


def test_a_picture_in_which_a_pdf_is_embedded_is_a_picture() -> None:
    file = io.BytesIO()
    picture("blue").save(file, "JPEG", comment=b"%PDF-1.4 in here")
    [page] = read(file.getvalue())
    assert (page["width"], page["words"]) == (60, None)


@pytest.mark.parametrize(("kind", "dpi"), [("PNG", 300), ("JPEG", 200), ("TIFF", 96)])
def test_pictures_tell_the_dpi_of_their_file(kind: str, dpi: int) -> None:
    assert read(encoded(kind, dpi=(dpi, dpi)))[0]["dpi"] == pytest.approx(dpi, abs=0.1)
    assert read(picture())[0]["dpi"] is None


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
@pytest.mark.parametrize("told", [(0, 0), (1, 1), (5, 5), (60_000, 60_000), (204, 98)])
def test_a_resolution_that_no_page_has_is_not_told(kind: str, told: tuple[int, int]) -> None:
    assert read(encoded(kind, dpi=told))[0]["dpi"] is None


@pytest.mark.parametrize(("unit", "dpi"), [(1, None), (2, 118.11), (3, 300)])
def test_the_resolution_of_a_tiff_is_in_its_unit(unit: int, dpi: float | None) -> None:
    content = encoded("TIFF", resolution_unit=unit, x_resolution=118.11, y_resolution=118.11)
    assert read(content)[0]["dpi"] == (dpi and pytest.approx(dpi, abs=0.1))


def test_a_jpeg_without_a_resolution_has_none() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 1
    assert read(encoded("JPEG", exif=exif.tobytes()))[0]["dpi"] is None
    exif[ExifTags.Base.XResolution] = exif[ExifTags.Base.YResolution] = 300.0
    exif[ExifTags.Base.ResolutionUnit] = 2
    assert read(encoded("JPEG", exif=exif.tobytes()))[0]["dpi"] == 300


def test_a_document_with_changes_that_lost_the_last_one_is_refused() -> None:
    changed = text_pdf(TWO_PAGES) + b"7 0 obj\n<< /Type /Annot >>\nendobj\nxref\n0 1\n000000"
    with pytest.raises(MediaCorrupt, match="is cut short"):
        read(changed)


def test_one_page_that_is_too_large_is_not_told_to_leave_out_others() -> None:
    with pytest.raises(
        MediaTooLarge,
        match=r"^data\.document \(bytes\): page 1 is 1001 x 1001 = 1002001 pixels; media\.max_image_pixels "
        r"allows 1000000: save that page smaller, or leave it out of data\.pages$",
    ):
        read(scanned_pdf([picture("white", (1000, 1000))]), limits=MediaSettings(max_image_pixels=1_000_000))


@pytest.mark.parametrize("content", [text_pdf([]), b"%PDF-1.4\nnothing of a PDF\n%%EOF\n"])
def test_a_document_without_pages_is_refused_even_after_a_locked_one(content: bytes) -> None:
    with pytest.raises(InvalidInput):
        read(text_pdf(TWO_PAGES, password="secret"))
    with pytest.raises(MediaCorrupt, match="is a PDF that has no pages, or that is too damaged to find"):
        read(content)


def test_a_broken_page_is_named_and_others_can_still_be_read() -> None:
    whole = text_pdf(TWO_PAGES)
    broken = whole.replace(b"6 0 obj\n<< /Type /Page ", b"6 0 obj\n<< /Type /Junk ")
    assert broken != whole
    assert words(read(broken, pages=1)[0])[0] == "Invoice"
    with pytest.raises(MediaCorrupt, match="has a page 2 that is broken"):
        read(broken)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"plain text", "is a plain text, not a document; send a whole PDF, TIFF or other image$"),
        (
            b"PK\x03\x04" + bytes(26) + b"word/document.xml",
            "is a Word document, which is not read; save it as PDF",
        ),
        (b"RIFF\x24\0\0\0WAVEfmt ", "send it as data.audio to task asr or audio-classification"),
        (
            b"\0\1\2\3 nothing known",
            "is no document of a known format; send a whole PDF, TIFF or other image$",
        ),
        (tiff(picture(), picture())[:-60], "page 2 is cut short"),
        (tiff(picture())[:20], "is a TIFF that is damaged; send a whole TIFF file"),
    ],
)
def test_bytes_that_are_no_document_are_refused(value: bytes, message: str) -> None:
    with pytest.raises(MediaCorrupt, match=message):
        read(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("s3://b/a.pdf", "which was not fetched"),
        (7, "data.document is 7"),
        ([b""], "data.document is a list"),
    ],
)
def test_values_that_are_no_document_are_refused(value: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read(value)


def test_many_threads_read_documents_side_by_side() -> None:
    documents = [text_pdf([[Line(50, 60, f"document {number}")]] * 3) for number in range(8)]
    scans = scanned_pdf([picture("white", (200, 200))] * 2)
    found: dict[int, list[str]] = {}

    def work(number: int) -> None:
        for _ in range(5):
            pages = read(documents[number], with_images=True)
            assert all(page["image"] is not None for page in read(scans))
            found[number] = words(pages[2])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == {number: ["document", str(number)] for number in range(8)}
