"""PDFs that hold what a viewer does not show: layers that are off, notes for print alone; and fields without a look."""

from __future__ import annotations

import pytest

from handlers.decoding.document import read_document
from handlers.decoding.document_pages import Page
from handlers.errors import InvalidInput
from handlers.settings import MediaSettings
from tests.hostile_documents import packed, pdf_of, stream

_FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
_FONTS = b"/Font<</F 6 0 R>>"
_LAYERS = b"/Properties<</Off 10 0 R/On 11 0 R/Both 12 0 R>>"
_FORM = b"/Type/XObject/Subtype/Form/BBox[0 0 612 792]/Resources<<%b%b>>" % (_FONTS, _LAYERS)


def read(content: bytes, *, with_images: bool = False) -> Page:
    [page] = read_document(content, field="data.document", limits=MediaSettings(), with_images=with_images)
    return page


def texts(page: Page) -> list[str]:
    return [word["text"] for word in page["words"] or []]


def line(text: str, y: int, *, size: int = 14, mode: int = 0) -> bytes:
    return b"BT /F %d Tf %d Tr 60 %d Td (%b) Tj ET\n" % (size, mode, y, text.encode())


def on_layer(name: str, content: bytes) -> bytes:
    return b"/OC /%b BDC\n%bEMC\n" % (name.encode(), content)


def layered(
    content: bytes,
    *,
    forms: dict[str, bytes] | None = None,
    box: bytes = b"0 0 612 792",
    is_packed: bool = False,
) -> bytes:
    """Return a page with layers On, Off, and Both, which shows where the other two do; names may be alike."""
    names = {name: number for number, name in enumerate(forms or {}, 20)}
    catalog = b"<</Type/Catalog/Pages 2 0 R/OCProperties<</OCGs[10 0 R 11 0 R]/D<</OFF[10 0 R]>>>>>>"
    objects = {
        1: catalog,
        2: b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        3: b"<</Type/Page/Parent 2 0 R/MediaBox[%b]/Contents 4 0 R/Resources<<%b%b/XObject<<%b>>>>>>"
        % (box, _FONTS, _LAYERS, b"".join(b"/%b %d 0 R" % (name.encode(), names[name]) for name in names)),
        4: stream(content),
        6: _FONT,
        10: b"<</Type/OCG/Name(Plan)>>",
        11: b"<</Type/OCG/Name(Plan)>>",
        12: b"<</Type/OCMD/OCGs[10 0 R 11 0 R]/P/AllOn>>",
        **{names[name]: form for name, form in (forms or {}).items()},
    }
    if is_packed:
        head = b"10 0 11 %d 1 %d " % (len(objects[10]) + 1, len(objects[10]) + len(objects[11]) + 2)
        body = b"\n".join((objects.pop(10), objects.pop(11), objects.pop(1)))
        objects[30] = packed(head + body, b"/Type/ObjStm/N 3/First %d" % len(head))
        return _with_packed_objects(objects)
    return pdf_of(objects)


def _with_packed_objects(objects: dict[int, bytes]) -> bytes:
    """Return a PDF whose object 30 holds the objects 10, 11 and 1."""
    plain = pdf_of(objects)
    body = plain[: plain.rindex(b"xref\n0 1\n")]
    rows = [(0, 0, 0)] * 32
    for number in objects:
        rows[number] = (1, body.index(b"\n%d 0 obj" % number) + 1, 0)
    rows[31] = (1, len(body), 0)
    for index, number in enumerate((10, 11, 1)):
        rows[number] = (2, 30, index)
    table = b"".join(bytes([kind]) + where.to_bytes(4, "big") + bytes([more]) for kind, where, more in rows)
    return b"%b31 0 obj\n%b\nendobj\nstartxref\n%d\n%%%%EOF\n" % (
        body,
        packed(table, b"/Type/XRef/Size 32/W[1 4 1]/Root 1 0 R"),
        len(body),
    )


@pytest.mark.parametrize("is_packed", [False, True])
def test_text_on_a_layer_that_is_off_is_not_text_of_the_page(is_packed: bool) -> None:
    content = (
        line("plain", 700)
        + on_layer("Off", line("unseen", 660))
        + on_layer("On", line("seen", 620) + on_layer("Off", line("inner", 580)))
        + on_layer("Both", line("both", 540))
    )
    assert texts(read(layered(content, is_packed=is_packed))) == ["plain", "seen"]


def test_layers_are_found_however_their_name_is_written() -> None:
    content = line("seen", 700) + on_layer("Off", line("unseen", 660))
    document = layered(content)
    assert texts(read(document.replace(b"/OCProperties", b"/OC#50r#6fperties"))) == ["seen"]


def test_forms_on_layers_that_are_off_are_not_text_of_the_page() -> None:
    forms = {
        "A": stream(line("unseen", 700), _FORM + b"/OC 10 0 R"),
        "B": stream(line("seen", 660), _FORM + b"/OC 11 0 R"),
        "C": stream(line("around", 620) + on_layer("Off", line("inside", 580)), _FORM),
        "D": stream(line("marked", 540), _FORM),
    }
    content = b"/A Do /B Do /C Do\n" + on_layer("Off", b"/D Do\n")
    assert texts(read(layered(content, forms=forms))) == ["seen", "around"]


def test_one_language_of_several_in_one_place_is_read() -> None:
    content = on_layer("Off", line("Guten Morgen", 700)) + on_layer("On", line("Good morning", 700))
    assert texts(read(layered(content))) == ["Good", "morning"]


@pytest.mark.parametrize("box", [b"0 0 612 792", b"0 0 8000 8000"])
def test_seen_layers_keep_small_white_and_invisible_text(box: bytes) -> None:
    content = on_layer("On", line("tiny", 700, size=2) + b"1 g\n" + line("white", 660))
    content += on_layer("On", line("read before", 620, mode=3)) + on_layer("Off", line("unseen", 580, mode=3))
    assert texts(read(layered(content, box=box))) == ["tiny", "white", "read", "before"]


def test_a_drawing_that_changes_its_layer_thousands_of_times_is_read() -> None:
    content = (on_layer("On", line("x", 700)) + on_layer("Off", line("unseen", 660))) * 1500
    off = layered(content).replace(b"10 0 obj\n<</Type/OCG/Name(Plan)", b"10 0 obj\n<</Type/OCG/Name(Grid)")
    assert set(texts(read(off))) == {"x"}


def test_the_picture_of_a_page_shows_every_layer_that_is_on() -> None:
    content = on_layer("On", line("seen", 620)) + on_layer("Off", line("unseen", 580))
    picture = read(layered(content), with_images=True)["image"]
    assert picture is not None
    dark = picture.convert("L").point(lambda value: 255 * (value < 128)).getbbox()
    assert dark is not None
    assert dark[3] - dark[1] < 40


def page_with(annotation: bytes, *, form: bytes = b"", more: bytes = b"") -> bytes:
    look = line("appearance", 5)
    return pdf_of(
        {
            1: b"<</Type/Catalog/Pages 2 0 R/AcroForm<</Fields[%b]/DA(/F 12 Tf)/DR<<%b>>>>>>" % (form, _FONTS),
            2: b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            3: b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<<%b>>/Annots[7 0 R]%b>>"
            % (_FONTS, more),
            4: stream(line("plain", 700)),
            6: _FONT,
            7: b"<</Type/Annot/Rect[60 400 300 430]%b>>" % annotation,
            8: stream(look, b"/Type/XObject/Subtype/Form/BBox[60 0 200 30]/Resources<<%b>>" % _FONTS),
        }
    )


@pytest.mark.parametrize(("flags", "is_seen"), [(0, True), (4, True), (2, False), (32, False), (36, False)])
def test_notes_are_read_unless_they_are_hidden_or_for_print_alone(flags: int, is_seen: bool) -> None:
    page = read(page_with(b"/Subtype/Stamp/F %d/AP<</N 8 0 R>>" % flags))
    assert texts(page) == ["plain", *(["appearance"] if is_seen else [])]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"/FT/Tx/V(Jane)", "Jane"),
        (b"/FT/Tx/V<FEFF004A00FC>/DA(/F 12 Tf)", "J\N{LATIN SMALL LETTER U WITH DIAERESIS}"),
        (b"/FT/Ch/Ff 131072/Opt[[(1)(one)][(2)(two)]]/V(2)", "two"),
    ],
)
def test_a_filled_field_without_an_appearance_is_read(field: bytes, value: str) -> None:
    page = read(page_with(b"/Subtype/Widget/T(n)/F 4" + field, form=b"7 0 R"))
    assert texts(page) == ["plain", value]


@pytest.mark.parametrize(("unit", "dpi"), [(b"1", 150), (b"1.0", 150), (b"2", None), (b"9 0 R", None)])
def test_a_page_of_which_the_size_of_a_point_is_not_known_tells_no_dpi(unit: bytes, dpi: float | None) -> None:
    assert read(page_with(b"", more=b"/UserUnit %b" % unit))["dpi"] == dpi
    assert read(page_with(b"", more=b"/User#55nit %b" % unit))["dpi"] == dpi


@pytest.mark.parametrize("is_drawn_by_it", [False, True])
def test_a_page_that_only_asks_to_wait_for_its_form_is_refused(is_drawn_by_it: bool) -> None:
    needs = b"/NeedsRendering true" if is_drawn_by_it else b""
    content = pdf_of(
        {
            1: b"<</Type/Catalog/Pages 2 0 R%b/AcroForm<</Fields[]/XFA 5 0 R>>>>" % needs,
            2: b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            3: b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<<%b>>>>" % _FONTS,
            4: stream(line("Please wait", 700)),
            5: stream(b"<xdp/>"),
            6: _FONT,
        }
    )
    if not is_drawn_by_it:
        assert texts(read(content)) == ["Please", "wait"]
        return
    with pytest.raises(InvalidInput, match="whose pages are an XFA form, which is not read; open it in a program"):
        read(content)
