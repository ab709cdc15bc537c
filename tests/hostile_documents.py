"""PDFs made to hang, crash or fill the memory of who reads them, small enough to be written by hand."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

_FORM = b"/Type/XObject/Subtype/Form/BBox[0 0 612 792]"


def pdf_of(objects: Mapping[int, bytes]) -> bytes:
    """Return a PDF of these objects, of which 1 is the catalog."""
    body = bytearray(b"%PDF-1.7\n")
    places = {}
    for number, content in sorted(objects.items()):
        places[number] = len(body)
        body += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    start = len(body)
    body += b"xref\n0 1\n0000000000 65535 f \n"
    for number, place in places.items():
        body += b"%d 1\n%010d 00000 n \n" % (number, place)
    body += b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (max(objects) + 1, start)
    return bytes(body)


def stream(content: bytes, about: bytes = b"") -> bytes:
    """Return a stream object."""
    return b"<<%b/Length %d>>\nstream\n%b\nendstream" % (about, len(content), content)


def packed(content: bytes, about: bytes = b"") -> bytes:
    """Return a stream object that is compressed."""
    return stream(zlib.compress(content), b"/Filter/FlateDecode" + about)


def one_page(
    content: bytes,
    *,
    resources: bytes = b"",
    box: bytes = b"0 0 612 792",
    rotate: int = 0,
    more: Mapping[int, bytes] | None = None,
) -> bytes:
    """Return a PDF with a page that draws the `content` (object 4) with `more` objects, from 5 on."""
    return pdf_of(
        {
            1: b"<</Type/Catalog/Pages 2 0 R>>",
            2: b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            3: b"<</Type/Page/Parent 2 0 R/MediaBox[%b]/Rotate %d/Contents 4 0 R/Resources<<%b>>>>"
            % (box, rotate, resources),
            4: content,
            **(more or {}),
        }
    )


def self_drawing_form() -> bytes:
    """A form that draws itself twice: at each level of recursion, twice as much."""
    form = stream(b"/F Do /F Do", _FORM + b"/Resources<</XObject<</F 5 0 R>>>>")
    return one_page(stream(b"/F Do"), resources=b"/XObject<</F 5 0 R>>", more={5: form})


def fan_of_forms() -> bytes:
    """Forms that each draw the next ten times, thirty levels deep: nothing recursive, 10 to the 30th rectangles."""
    forms = {
        5 + level: stream(b"/F Do " * 10, _FORM + b"/Resources<</XObject<</F %d 0 R>>>>" % (6 + level))
        for level in range(30)
    }
    return one_page(
        stream(b"/F Do"),
        resources=b"/XObject<</F 5 0 R>>",
        more={**forms, 35: stream(b"0 0 10 10 re f", _FORM)},
    )


def unpacking_content() -> bytes:
    """A page whose content unpacks to a gigabyte of lines."""
    packer = zlib.compressobj(9)
    lines = b"0 0 m 1 1 l S " * 75_000
    content = b"".join(packer.compress(lines) for _ in range(1000)) + packer.flush()
    return one_page(stream(content, b"/Filter/FlateDecode"))


def endless_pattern() -> bytes:
    """A pattern, filled with itself, of steps so small that a page takes hundreds of billions of them."""
    pattern = stream(
        b"/Pattern cs /P scn 0 0 1 1 re f",
        b"/Type/Pattern/PatternType 1/PaintType 1/TilingType 1/BBox[0 0 1 1]/XStep 0.001/YStep 0.001"
        b"/Resources<</Pattern<</P 5 0 R>>>>",
    )
    return one_page(
        stream(b"/Pattern cs /P scn 0 0 612 792 re f"), resources=b"/Pattern<</P 5 0 R>>", more={5: pattern}
    )


def endless_shading() -> bytes:
    """A shading whose function takes tens of thousands of steps for each pixel."""
    shading = b"<</ShadingType 1/ColorSpace/DeviceRGB/Domain[0 1 0 1]/Function 6 0 R/Matrix[612 0 0 792 0 0]>>"
    function = stream(b"{" + b" dup mul dup " * 20_000 + b"}", b"/FunctionType 4/Domain[0 1 0 1]/Range[0 1 0 1 0 1]")
    return one_page(stream(b"/S sh"), resources=b"/Shading<</S 5 0 R>>", more={5: shading, 6: function})


def masking_itself() -> bytes:
    """A group that is masked by itself."""
    group = stream(
        b"/G gs 0 0 500 500 re f /F Do",
        _FORM + b"/Group<</S/Transparency>>/Resources<</ExtGState<</G 6 0 R>>/XObject<</F 5 0 R>>>>",
    )
    return one_page(
        stream(b"/G gs 0 0 600 700 re f /F Do"),
        resources=b"/ExtGState<</G 6 0 R>>/XObject<</F 5 0 R>>",
        more={5: group, 6: b"<</SMask<</S/Alpha/G 5 0 R>>>>"},
    )


def far_too_many_letters() -> bytes:
    """A page with more than a million letters in a file of some hundred kilobytes."""
    lines = b"".join(
        b"1 0 0 1 %d %d Tm (abcdefghij) Tj " % (60 * (number % 200), 20 * (number // 200)) for number in range(120_000)
    )
    return one_page(
        packed(b"BT /F 9 Tf " + lines + b"ET"),
        box=b"0 0 14400 14400",
        resources=b"/Font<</F 5 0 R>>",
        more={5: b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"},
    )


def thin_page() -> bytes:
    """A page of a drawing, 41 667 times 21 pixels."""
    return one_page(stream(b"0 0 100 10 re f"), box=b"0 0 20000 10")


def lying_jbig2() -> bytes:
    """A picture of some bytes that claims 40 000 times 40 000 pixels. Source: ITU-T T.88, 7.2 and 7.4."""
    side = (40_000).to_bytes(4, "big") * 2
    page = b"\0\0\0\0\x30\0\1\0\0\0\x13" + side + bytes(11)
    region = b"\0\0\0\1\x26\0\1\0\0\0\x1a" + side + bytes(18)
    about = b"/Type/XObject/Subtype/Image/Width 40000/Height 40000/BitsPerComponent 1/ColorSpace/DeviceGray"
    picture = stream(page + region, about + b"/Filter/JBIG2Decode")
    return one_page(stream(b"q 612 0 0 792 0 0 cm /I Do Q"), resources=b"/XObject<</I 5 0 R>>", more={5: picture})
