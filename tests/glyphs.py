"""PDFs whose text layer is in any script, turned any way, over pictures or not; written by hand."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from tests.hostile_documents import one_page, stream

ADVANCE = 0.6
"""Of every glyph, in parts of the font's size."""


@dataclass(frozen=True, slots=True)
class Text:
    """Glyphs from left to right, as they are drawn; `x` and `y` in points from the bottom left of the page."""

    x: float
    y: float
    glyphs: str
    size: float = 12
    degrees: float = 0
    """Counterclockwise."""
    is_invisible: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A grey picture in a box of points: left, bottom, width, height."""

    box: tuple[float, float, float, float]
    in_form: bool = False


def drawn_pdf(*drawn: Text | Picture, rotate: int = 0, pixels: int = 16) -> bytes:
    """Return a PDF of one page of 612 x 792 points with these texts and pictures of `pixels` x `pixels` on it."""
    texts = [one for one in drawn if isinstance(one, Text)]
    codes = {glyph: code for code, glyph in enumerate(sorted({glyph for one in texts for glyph in one.glyphs}), 1)}
    content = b"".join(_text(one, codes) if isinstance(one, Text) else _picture(one) for one in drawn)
    file = io.BytesIO()
    Image.new("L", (pixels, pixels), 200).save(file, "JPEG")
    return one_page(
        stream(content),
        rotate=rotate,
        resources=b"/Font<</F 5 0 R>>/XObject<</I 9 0 R/Form 10 0 R>>",
        more={
            5: b"<</Type/Font/Subtype/Type0/BaseFont/X/Encoding/Identity-H/DescendantFonts[6 0 R]/ToUnicode 7 0 R>>",
            6: b"<</Type/Font/Subtype/CIDFontType2/BaseFont/X/CIDSystemInfo<</Registry(Adobe)/Ordering(Identity)"
            b"/Supplement 0>>/DW %d/FontDescriptor 8 0 R>>" % (1000 * ADVANCE),
            7: stream(_to_unicode(codes)),
            8: b"<</Type/FontDescriptor/FontName/X/Flags 4/FontBBox[0 -200 1000 800]/ItalicAngle 0/Ascent 800"
            b"/Descent -200/CapHeight 700/StemV 80>>",
            9: stream(
                file.getvalue(),
                b"/Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceGray/BitsPerComponent 8"
                b"/Filter/DCTDecode" % (pixels, pixels),
            ),
            10: stream(
                b"q 0.5 0 0 0.5 0 0 cm /I Do Q",
                b"/Type/XObject/Subtype/Form/BBox[0 0 1 1]/Matrix[2 0 0 2 0 0]/Resources<</XObject<</I 9 0 R>>>>",
            ),
        },
    )


def lines_of_text(count: int, *, top: float = 740, is_invisible: bool = False) -> Sequence[Text]:
    """Return lines that fill the page from its top on."""
    return [Text(60, top - 15 * index, "abcdefg hijk " * 5, is_invisible=is_invisible) for index in range(count)]


def _text(text: Text, codes: dict[str, int]) -> bytes:
    cos, sin = math.cos(math.radians(text.degrees)), math.sin(math.radians(text.degrees))
    written = "".join(f"{codes[glyph]:04X}" for glyph in text.glyphs).encode()
    matrix = (cos, sin, -sin, cos, text.x, text.y)
    return b"BT %d Tr /F %f Tf %f %f %f %f %f %f Tm <%b> Tj ET\n" % (
        3 if text.is_invisible else 0,
        text.size,
        *matrix,
        written,
    )


def _picture(picture: Picture) -> bytes:
    left, bottom, width, height = picture.box
    name = b"Form" if picture.in_form else b"I"
    return b"q %f 0 0 %f %f %f cm /%b Do Q\n" % (width, height, left, bottom, name)


def _to_unicode(codes: dict[str, int]) -> bytes:
    pairs = b"".join(
        b"<%04X> <%b> " % (code, glyph.encode("utf-16-be").hex().encode()) for glyph, code in codes.items()
    )
    return (
        b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def /CMapType 2 def "
        b"1 begincodespacerange <0000> <FFFF> endcodespacerange %d beginbfchar %bendbfchar endcmap end end"
        % (len(codes), pairs)
    )
