"""PDFs whose streams are damaged: what was read only in part is told, and good files are not accused."""

from __future__ import annotations

import base64
import io
import zlib

import numpy as np
import pytest
from PIL import Image

from handlers.decoding.document import read_document
from handlers.decoding.document_pages import told_damage
from handlers.errors import MediaCorrupt
from handlers.settings import MediaSettings
from tests.documents import Line, text_pdf
from tests.hostile_documents import one_page, packed, pdf_of, stream

FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
LINES = 50
NOISE = np.random.default_rng(7).integers(0, 10**9, LINES)
TEXT = b"".join(
    b"BT /F 10 Tf 50 %d Td (Row %d of %d) Tj ET\n" % (780 - 15 * row, row, NOISE[row]) for row in range(LINES)
)
FLATE = b"/Filter/FlateDecode"
PIXELS = np.random.default_rng(7).integers(0, 255, (200, 300, 3), np.uint8).tobytes()
ABOUT_PICTURE = b"/Type/XObject/Subtype/Image/Width 300/Height 200/ColorSpace/DeviceRGB/BitsPerComponent 8"
PICTURE_DAMAGED = "data.document is damaged and was read only in part: a picture of page 1"
FORM = b"/Type/XObject/Subtype/Form/BBox[0 0 612 792]"


def told(content: bytes, pages: str | None = None) -> str | None:
    read = read_document(content, field="data.document", limits=MediaSettings(), pages=pages)
    return told_damage(read, "data.document")


def changed(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]


def page_of(content: bytes, *, more: dict[int, bytes] | None = None) -> bytes:
    return one_page(content, resources=b"/Font<</F 5 0 R>>/XObject<</X 6 0 R>>", more={5: FONT, **(more or {})})


def pages_of(*contents: bytes) -> bytes:
    """Return a PDF with a page for each content, which may be any object."""
    numbers = range(10, 10 + 2 * len(contents), 2)
    objects = {
        1: b"<</Type/Catalog/Pages 2 0 R>>",
        2: b"<</Type/Pages/MediaBox[0 0 612 792]/Resources<</Font<</F 5 0 R>>>>/Count %d/Kids[%b]>>"
        % (len(contents), b" ".join(b"%d 0 R" % number for number in numbers)),
        5: FONT,
    }
    for number, content in zip(numbers, contents, strict=True):
        objects[number] = b"<</Type/Page/Parent 2 0 R/Contents %d 0 R>>" % (number + 1)
        objects[number + 1] = content
    return pdf_of(objects)


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7, 0.9, 1])
def test_a_changed_byte_in_the_content_of_a_page_is_told(part: float) -> None:
    whole = zlib.compress(TEXT)
    damaged = changed(whole, int((len(whole) - 1) * part))
    content = pages_of(packed(TEXT), stream(damaged, FLATE), packed(TEXT))
    assert told(content) == "data.document is damaged and was read only in part: content of page 2"
    assert told(content, "1,3") is None


@pytest.mark.parametrize("filters", [b"[/ASCII85Decode/FlateDecode]", b"[ /ASCII85Decode /FlateDecode ]"])
def test_a_changed_byte_in_content_of_two_filters_is_told(filters: bytes) -> None:
    written = base64.a85encode(zlib.compress(TEXT), wrapcol=72) + b"~>"
    assert told(page_of(stream(written, b"/Filter" + filters))) is None
    middle = len(written) // 2
    for damage in (b"\x01\xff\x90", b"abcde"):
        damaged = written[:middle] + damage + written[middle + len(damage) :]
        assert told(page_of(stream(damaged, b"/Filter" + filters))) is not None


def hexed(data: bytes) -> bytes:
    return data.hex().encode().upper() + b">"


@pytest.mark.parametrize(
    ("filters", "written", "end"),
    [
        (b"/ASCIIHexDecode", hexed(TEXT), 1),
        (b"/AHx", hexed(TEXT), 1),
        (b"/ASCII85Decode", base64.a85encode(TEXT, wrapcol=72, adobe=True), 2),
        (b"/A85", base64.a85encode(TEXT) + b"~>", 2),
        (b"[/ASCIIHexDecode/FlateDecode]", hexed(zlib.compress(TEXT)), 1),
        (b"[/AHx/Fl]", hexed(zlib.compress(TEXT)), 1),
        (b"/Fl", zlib.compress(TEXT), 5),
    ],
)
def test_content_written_as_text_or_with_a_short_filter_name_is_told_where_it_breaks_off(
    filters: bytes, written: bytes, end: int
) -> None:
    assert told(page_of(stream(written, b"/Filter" + filters))) is None
    assert told(page_of(stream(written + b"\r\n", b"/Filter" + filters))) is None
    for cut in (written[:-end], written[: len(written) // 2]):
        assert told(page_of(stream(cut, b"/Filter" + filters))) is not None


def test_hexadecimal_text_of_an_odd_length_is_not_accused() -> None:
    assert told(page_of(stream(TEXT.hex().encode() + b"2>", b"/Filter/ASCIIHexDecode"))) is None


def test_concatenated_pdfs_are_refused_since_readers_show_only_the_last() -> None:
    whole = page_of(packed(TEXT))
    for between in (b"", b"\r\n"):
        with pytest.raises(MediaCorrupt, match="is several concatenated PDFs; send one request for each"):
            told(whole + between + whole)


@pytest.mark.parametrize("content", [b"5", b"<</A 1>>", b"[5 6]", stream(b"x" * 40, FLATE)])
def test_content_that_is_none_is_told(content: bytes) -> None:
    whole = pages_of(packed(TEXT), content, packed(TEXT), content)
    assert told(whole) == "data.document is damaged and was read only in part: content of pages 2, 4"


@pytest.mark.parametrize("lost", range(7, 100, 9))
def test_content_that_breaks_off_is_told(lost: int) -> None:
    assert told(page_of(stream(zlib.compress(TEXT)[:-lost], FLATE))) is not None


@pytest.mark.parametrize(
    "content",
    [
        *[stream(zlib.compress(TEXT)[: len(zlib.compress(TEXT)) - lost], FLATE) for lost in range(5)],
        stream(zlib.compress(TEXT)[:-4] + b"\0\0\0\0", FLATE),
        stream(zlib.compress(TEXT) + b"\r\n", FLATE),
        stream(zlib.compress(TEXT) + bytes(50), FLATE),
        packed(TEXT).replace(b"/Length", b"/Length 6 0 R/Other"),
        packed(TEXT).replace(b"/Length", b"/Length 1 /Other"),
        packed(b""),
        stream(b"", FLATE),
        stream(b""),
        stream(b"q Q"),
        stream(b"q 1 0 0 1 0 0 cm/Artifact<</Type/Pagination>>BDC EMC Q BT ET % a note\n0 0 5 5 re W n"),
        b"null",
        b"[]",
        b"[11 0 R]",
    ],
)
def test_content_of_which_nothing_is_lost_is_not_accused(content: bytes) -> None:
    whole = pages_of(content).replace(b"[11 0 R]", b"[]")
    assert told(whole) is None


def test_content_that_an_update_replaced_is_not_looked_at() -> None:
    damaged = changed(zlib.compress(TEXT), 40)
    whole = pages_of(stream(damaged, FLATE))
    assert told(whole) is not None
    place = len(whole)
    update = b"11 0 obj\n%b\nendobj\n" % packed(TEXT)
    previous = whole[whole.rindex(b"startxref") :].split()[1]
    trailer = b"xref\n11 1\n%010d 00000 n \ntrailer\n<</Size 20/Root 1 0 R/Prev %b>>\nstartxref\n%d\n%%%%EOF\n"
    assert told(whole + update + trailer % (place, previous, place + len(update))) is None


def test_a_damaged_stream_that_no_page_shows_is_not_looked_at() -> None:
    attached = stream(changed(zlib.compress(TEXT), 40), FLATE)
    assert told(page_of(packed(TEXT), more={6: attached})) is None


def test_a_damaged_form_is_told_where_it_is_drawn() -> None:
    damaged = stream(changed(zlib.compress(TEXT), 40), FORM + b"/Resources<</Font<</F 5 0 R>>>>" + FLATE)
    assert told(page_of(packed(b"/X Do"), more={6: damaged})) is not None


def test_a_damaged_table_of_characters_is_told() -> None:
    font = FONT.replace(b">>", b"/ToUnicode 7 0 R>>")
    table = b"1 beginbfchar <41> <0042> endbfchar\n" * 50
    assert told(page_of(packed(TEXT), more={5: font, 7: packed(table)})) is None
    damaged = stream(changed(zlib.compress(table), 20), FLATE)
    found = told(page_of(packed(TEXT), more={5: font, 7: damaged}))
    assert found == "data.document is damaged and was read only in part: a font of page 1"


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, None])
def test_a_damaged_scan_is_told(part: float | None) -> None:
    whole = zlib.compress(PIXELS)
    drawn = packed(b"q 612 0 0 792 0 0 cm /X Do Q")
    for kept in (whole, whole[:-2]):
        assert told(page_of(drawn, more={6: stream(kept, ABOUT_PICTURE + FLATE)})) is None
    damaged = whole[: len(whole) // 2] if part is None else changed(whole, int(len(whole) * part))
    found = told(page_of(drawn, more={6: stream(damaged, ABOUT_PICTURE + FLATE)}))
    assert found == "data.document is damaged and was read only in part: a picture of page 1"


def scan_of(picture: bytes, kind: bytes) -> bytes:
    return page_of(
        packed(b"q 500 0 0 700 50 50 cm /X Do Q"), more={6: stream(picture, ABOUT_PICTURE + b"/Filter/" + kind)}
    )


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.frombytes("RGB", (300, 200), PIXELS).save(out, "JPEG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("picture", "kind"),
    [
        (jpeg()[: len(jpeg()) // 2], b"DCTDecode"),
        (jpeg()[:200], b"DCTDecode"),
        (b"", b"DCTDecode"),
        (b"", b"JPXDecode"),
        (b"abc" * 99, b"JPXDecode"),
    ],
)
def test_a_scan_whose_jpeg_is_cut_or_none_is_told(picture: bytes, kind: bytes) -> None:
    assert told(scan_of(picture, kind)) == PICTURE_DAMAGED


@pytest.mark.parametrize("picture", [jpeg(), jpeg() + b"\r\n"])
def test_a_scan_whose_jpeg_is_whole_is_not_accused(picture: bytes) -> None:
    assert told(scan_of(picture, b"DCTDecode")) is None


def test_a_damaged_picture_of_a_page_that_is_read_from_its_text_layer_is_not_told() -> None:
    damaged = stream(changed(zlib.compress(PIXELS), 5000), ABOUT_PICTURE + FLATE)
    content = packed(TEXT + b"q 30 0 0 20 0 0 cm /X Do Q")
    assert told(page_of(content, more={6: damaged})) is None


def test_a_file_that_is_encrypted_is_not_accused() -> None:
    assert told(text_pdf([[Line(50, 60, "Invoice")]], password="")) is None


def packed_objects(*, is_damaged: bool = False) -> bytes:
    """Return a PDF whose pages are in an object stream, with a cross-reference stream."""
    inside = {
        1: b"<</Type/Catalog/Pages 2 0 R>>",
        2: b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        3: b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>",
        5: FONT,
    }
    heads, bodies = b"", b""
    for number, body in inside.items():
        heads += b"%d %d " % (number, len(bodies))
        bodies += body + b" "
    content = zlib.compress(TEXT)
    held = {
        4: stream(changed(content, 60) if is_damaged else content, FLATE),
        6: packed(heads + bodies, b"/Type/ObjStm/N %d/First %d" % (len(inside), len(heads))),
    }
    file, places = bytearray(b"%PDF-1.7\n"), {}
    for number, body in held.items():
        places[number] = len(file)
        file += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    rows = [(0, 0, 0)]
    rows += [(2, 6, list(inside).index(n)) if n in inside else (1, places.get(n, len(file)), 0) for n in range(1, 8)]
    table = b"".join(kind.to_bytes(1) + place.to_bytes(4) + index.to_bytes(1) for kind, place, index in rows)
    xref = packed(table, b"/Type/XRef/Size 8/W[1 4 1]/Root 1 0 R")
    return bytes(file + b"7 0 obj\n%b\nendobj\nstartxref\n%d\n%%%%EOF\n" % (xref, len(file)))


def test_pages_within_an_object_stream_are_looked_at() -> None:
    assert told(packed_objects()) is None
    found = told(packed_objects(is_damaged=True))
    assert found == "data.document is damaged and was read only in part: content of page 1"
