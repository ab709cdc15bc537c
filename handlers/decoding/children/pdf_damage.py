"""Finds damaged streams of a PDF's pages, of which PDFium reads a part and does not tell; uses qpdf."""

from __future__ import annotations

import base64
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pikepdf

CONTENT, PICTURE, FONT = "content", "a picture", "a font"

_MOST = 1 << 30
"""Bytes that are unpacked of one file; more are not looked at."""
_MOST_FORMS = 200
"""Forms of one page that are looked at."""

_PIECE = 1 << 20
_NO_CHECKSUM = bytes(4)
_OTHER_KINDS = (pikepdf.PdfError, AttributeError, TypeError, ValueError)
"""Errors about objects of other kinds than they should be; what they lead to is not looked at."""

_JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
"""How a file begins, and bare data."""
_ASCII_ENDS = {"/ASCII85Decode": b"~>", "/A85": b"~>", "/ASCIIHexDecode": b">", "/AHx": b">"}
_FLATE, _JPEG = ("/FlateDecode", "/Fl"), ("/DCTDecode", "/DCT")
_SPACES = b"\0\t\n\f\r "
_NEAR_END = 64
"""Bytes in which the end mark of a JPEG is, with what may be behind it."""

_DRAWN = re.compile(rb"(/[^\0\t\n\f\r ()<>\[\]{}/%]+)[\0\t\n\f\r ]+Do\b")
_WRITTEN = re.compile(rb"(/[^\0\t\n\f\r ()<>\[\]{}/%]+)[\0\t\n\f\r ]+[0-9.+-]+[\0\t\n\f\r ]+Tf\b")


class PdfDamage:
    """The damage of one file's pages. A JPEG is damaged if it is cut, a JPEG 2000 if it is none; other streams of
    pictures, as of CCITTFaxDecode, are not looked at, nor files that qpdf does not read."""

    def __init__(self, content: bytes) -> None:
        self._left = _MOST
        self._known: dict[tuple[int, int], bool] = {}
        self._pages: list[pikepdf.Page] = []
        self._pdf: pikepdf.Pdf | None = None  # its pages are gone without it
        with suppress(pikepdf.PdfError, pikepdf.PasswordError):
            self._pdf = pikepdf.open(io.BytesIO(content), suppress_warnings=True)
            self._pages = list(self._pdf.pages)

    def of_page(self, number: int, *, is_drawn: bool) -> list[str]:
        """Return what of a page is damaged: `CONTENT`, `PICTURE` where it is to be drawn, `FONT`."""
        if number > len(self._pages):
            return []
        found: set[str] = set()
        with suppress(*_OTHER_KINDS):
            found.update(self._of_page(self._pages[number - 1], is_drawn=is_drawn))
        return sorted(found)

    def _of_page(self, page: pikepdf.Page, *, is_drawn: bool) -> Iterator[str]:
        parts, content = page.obj.get("/Contents"), b""
        for part in parts if isinstance(parts, pikepdf.Array) else [parts]:
            if isinstance(part, pikepdf.Stream) and not self._is_damaged(part):
                content += part.read_bytes() + b"\n"
            elif part is not None:
                yield CONTENT
        yield from self._of_content(content, page.resources, is_drawn=is_drawn, seen=set())

    def _of_content(
        self, content: bytes, resources: Any, *, is_drawn: bool, seen: set[tuple[int, int]]
    ) -> Iterator[str]:
        """Yield what is damaged of that which content draws and writes with; `seen` has the forms looked at."""
        for drawn in _named(_DRAWN, content, resources.get("/XObject")):
            kind = drawn.get("/Subtype")
            if kind == "/Image" and is_drawn and self._is_damaged(drawn):
                yield PICTURE
            elif kind == "/Form" and self._is_damaged(drawn):
                yield CONTENT
            elif kind == "/Form" and drawn.objgen not in seen and len(seen) < _MOST_FORMS:
                seen.add(drawn.objgen)
                inner = drawn.get("/Resources", resources)
                yield from self._of_content(drawn.read_bytes(), inner, is_drawn=is_drawn, seen=seen)
        for font in _named(_WRITTEN, content, resources.get("/Font")):
            table = font.get("/ToUnicode")
            if isinstance(table, pikepdf.Stream) and self._is_damaged(table):
                yield FONT

    def _is_damaged(self, stream: Any) -> bool:
        """Tell whether a stream does not unpack to its end; each is unpacked once."""
        if stream.objgen not in self._known:
            self._known[stream.objgen] = self._unpacks(stream) is False
        return self._known[stream.objgen]

    def _unpacks(self, stream: Any) -> bool | None:
        """Return whether a stream unpacks to its end, None where that is not known."""
        filters = stream.get("/Filter")
        names = [str(name) for name in filters] if isinstance(filters, pikepdf.Array) else [str(filters)]
        packed: Any = stream.get_raw_stream_buffer()
        while names and (end := _ASCII_ENDS.get(names[0])):
            text = bytes(packed).strip(_SPACES)
            if not text.endswith(end):
                return False
            try:
                packed = _binary(text.removesuffix(end), end)
            except ValueError:
                return False
            names = names[1:]
        if len(names) != 1:
            return None
        if names[0] in _FLATE:
            return self._inflates(memoryview(packed)) if len(packed) else None
        data = bytes(packed)
        if names[0] in _JPEG:
            return data.startswith(b"\xff\xd8") and b"\xff\xd9" in data[-_NEAR_END:]
        return data.startswith(_JPEG_2000) if names[0] == "/JPXDecode" else None

    def _inflates(self, packed: memoryview) -> bool:
        """Return whether deflated data is whole; its checksum may be missing, as in many files.

        Source: RFC 1950 (two bytes before the data, four behind it).
        """
        unpacking, checksum = zlib.decompressobj(wbits=-zlib.MAX_WBITS), 1
        rest: bytes | memoryview = packed[2:]
        while not unpacking.eof:
            try:
                got = unpacking.decompress(rest, _PIECE)
            except zlib.error:
                return False
            rest, checksum = unpacking.unconsumed_tail, zlib.adler32(got, checksum)
            self._left -= len(got)
            if self._left <= 0 or not (got or rest):
                break
        written = unpacking.unused_data[:4]
        is_told = unpacking.eof and len(written) == 4 and written != _NO_CHECKSUM
        return self._left <= 0 or (written == checksum.to_bytes(4) if is_told else unpacking.eof)


def _binary(text: bytes, end: bytes) -> bytes:
    """Return the bytes that ASCII85 or hexadecimal text, told by its end mark, stands for, or raise ValueError."""
    if end == b"~>":
        return base64.a85decode(text.removeprefix(b"<~"))
    return bytes.fromhex(text.decode("latin-1") + "0" * (len(b"".join(text.split())) % 2))


def _named(names: re.Pattern[bytes], content: bytes, held: Any) -> list[Any]:
    """Return what content names of that which its resources hold."""
    if held is None:
        return []
    found = (held.get(name.decode("latin-1")) for name in dict.fromkeys(names.findall(content)))
    return [one for one in found if one is not None]
