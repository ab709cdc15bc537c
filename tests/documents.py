"""Documents made for tests: PDFs with a text layer, scanned ones, locked ones, and pictures of pages."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

A4_POINTS = (595, 842)

_PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
"""Fills passwords up to 32 bytes. Source: ISO 32000-1, 7.6.3.3."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text; `x` and `y` are its left end and baseline in points from the page's top left."""

    x: float
    y: float
    text: str
    size: float = 12


def text_pdf(
    pages: Sequence[Sequence[Line]],
    *,
    size: tuple[int, int] = A4_POINTS,
    rotate: int = 0,
    password: str | None = None,
    field: str | None = None,
) -> bytes:
    """Return a PDF with those lines in Helvetica as its text layer, and `field` in a form field on its first page."""
    page_numbers = [4 + 2 * index for index in range(len(pages))]
    kids = " ".join(f"{number} 0 R" for number in page_numbers)
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>".encode(),
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    }
    identity = hashlib.md5(b"a test").digest()
    locked = None if password is None else _Lock(password, identity)
    for number, lines in zip(page_numbers, pages, strict=True):
        objects[number] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {size[0]} {size[1]}] /Rotate {rotate} "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {number + 1} 0 R "
            f"{'/Annots [1000 0 R]' if field and number == 4 else ''} >>"
        ).encode()
        content = b"".join(
            b"BT /F1 %g Tf %g %g Td (%s) Tj ET\n" % (line.size, line.x, size[1] - line.y, _escaped(line.text))
            for line in lines
        )
        if locked is not None:
            content = locked.encrypt(content, number + 1)
        objects[number + 1] = b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content)
    if field:
        shown = b"BT /F1 18 Tf 2 10 Td (%s) Tj ET" % _escaped(field)
        objects[1] = b"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [1000 0 R] >> >>"
        objects[1000] = (
            b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (%s) /F 4 /Rect [72 400 400 440] "
            b"/AP << /N 1001 0 R >> >>" % _escaped(field)
        )
        objects[1001] = (
            b"<< /Type /XObject /Subtype /Form /BBox [0 0 328 40] /Resources << /Font << /F1 3 0 R >> >> "
            b"/Length %d >>\nstream\n%s\nendstream" % (len(shown), shown)
        )
    return _file(objects, identity, None if locked is None else locked.dictionary)


def scanned_pdf(pictures: Sequence[Image.Image], *, dpi: float = 150) -> bytes:
    """Return a PDF of pictures alone."""
    file = io.BytesIO()
    pictures[0].save(file, "PDF", save_all=True, append_images=list(pictures[1:]), resolution=dpi, quality=90)
    return file.getvalue()


def picture(lines: Sequence[Line], *, size: tuple[int, int], colour: str = "black") -> Image.Image:
    """Return a white picture with those lines on it; here, points are pixels and `y` is the top."""
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    for line in lines:
        pen.text((line.x, line.y), line.text, font=font(line.size), fill=colour)
    return image


def font(size: float) -> ImageFont.FreeTypeFont:
    """Return the font that comes with Pillow, so that pictures are the same on every machine."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont)
    return found


def rendered(pdf: bytes, *, dpi: float = 150) -> list[Image.Image]:
    """Return what the pages of a PDF look like."""
    from pypdfium2 import PdfDocument  # type: ignore[import-untyped]

    with PdfDocument(pdf) as document:
        return [page.render(scale=dpi / 72).to_pil().convert("RGB") for page in document]


def _escaped(text: str) -> bytes:
    return text.encode("cp1252").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")


def _file(objects: dict[int, bytes], identity: bytes, encryption: bytes | None) -> bytes:
    if encryption is not None:
        objects = {**objects, max(objects) + 1: encryption}
    body = bytearray(b"%PDF-1.4\n")
    places = []
    for number in sorted(objects):
        places.append((number, len(body)))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, objects[number])
    start = len(body)
    body += b"xref\n0 1\n0000000000 65535 f \n"
    for number, place in places:
        body += b"%d 1\n%010d 00000 n \n" % (number, place)
    extra = b"" if encryption is None else b" /Encrypt %d 0 R" % max(objects)
    body += b"trailer\n<< /Size %d /Root 1 0 R /ID [<%s> <%s>]%s >>\nstartxref\n%d\n%%%%EOF\n" % (
        max(objects) + 1,
        identity.hex().encode(),
        identity.hex().encode(),
        extra,
        start,
    )
    return bytes(body)


class _Lock:
    """The standard security handler, revision 2: 40 bits of RC4, which every reader knows.

    Source: ISO 32000-1, 7.6.3 (algorithms 1 to 4).
    """

    def __init__(self, password: str, identity: bytes) -> None:
        padded = (password.encode() + _PADDING)[:32]
        owner = _rc4(hashlib.md5(padded).digest()[:5], padded)
        rights = (-4).to_bytes(4, "little", signed=True)
        self._key = hashlib.md5(padded + owner + rights + identity).digest()[:5]
        user = _rc4(self._key, _PADDING)
        self.dictionary = b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>" % (
            owner.hex().encode(),
            user.hex().encode(),
        )

    def encrypt(self, content: bytes, number: int) -> bytes:
        """Return the stream of object `number` as it stands in the file."""
        key = hashlib.md5(self._key + number.to_bytes(3, "little") + b"\0\0").digest()[:10]
        return _rc4(key, content)


def _rc4(key: bytes, content: bytes) -> bytes:
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out = bytearray()
    i = j = 0
    for byte in content:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)
