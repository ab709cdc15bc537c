"""Removes what a PDF viewer does not show: layers (optional content) that are off, notes only for print."""

from __future__ import annotations

import ctypes
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

from pypdfium2 import PdfPage, raw  # type: ignore[import-untyped]

_DEEPEST = 8
"""Levels of form XObjects that are searched."""


def _written(name: str) -> bytes:
    """Return the pattern of a name in a PDF, any letter of which may be written as `#` and its code. Source: ISO
    32000-1, 7.3.5."""
    return b"/" + b"".join(b"(?:%c|#(?i:%02x))" % (letter, letter) for letter in name.encode()) + rb"(?![\w#])"


_PACKED = re.compile(_written("ObjStm") + rb".{0,1024}?\bstream\r?\n", re.DOTALL)
_MOST_UNPACKED = 4 << 20
_LAYERS = re.compile(_written("OCProperties"))
_UNIT = re.compile(_written("UserUnit") + rb"\s+(?!0*1(?:\.0*)?[\s/>])")

_PAPER = (253, 1, 254, 255)
"""The background on which objects are drawn, to see whether they are drawn at all: a colour they do not have."""

_READ = (raw.FPDF_PAGEOBJ_TEXT, raw.FPDF_PAGEOBJ_IMAGE)

_MOST_TRIED = 2000
"""Changes of the layer on one page that are looked at one by one; of more, those to layers of one name together."""

_LOOKED_AT = (100_000, 2_000_000)
"""Pixels of the test images of a page."""

INVISIBLE = 3
"""The rendering mode of text from OCR, behind or over the scan. Source: ISO 32000-1, 9.3.6."""


def has_layers_and_units(content: bytes) -> tuple[bool, bool]:
    """Tell whether a file has layers, and whether it has points that are not a 72nd of an inch.

    Where it cannot be looked into, it may have layers.
    """
    has_layers = has_units = False
    for part in _dictionaries(content):
        has_layers = has_layers or part is None or _LAYERS.search(part) is not None
        has_units = has_units or (part is not None and _UNIT.search(part) is not None)
    return has_layers, has_units


def _dictionaries(content: bytes) -> Iterator[bytes | None]:
    """Yield what holds the dictionaries of a file, None for a part that does not unpack."""
    yield content
    for found in _PACKED.finditer(content):
        packed = content[found.end() : content.find(b"endstream", found.end())]
        try:
            yield zlib.decompressobj().decompress(packed, _MOST_UNPACKED)
        except zlib.error:
            yield None


def leaves_of(page: PdfPage, forms: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield each active text, image and drawing of a page, or within its `forms`, with the form XObjects around it."""
    form = forms[-1] if forms else None
    count = raw.FPDFFormObj_CountObjects(form) if form else raw.FPDFPage_CountObjects(page)
    for index in range(count):
        found = raw.FPDFFormObj_GetObject(form, index) if form else raw.FPDFPage_GetObject(page, index)
        if raw.FPDFPageObj_GetType(found) != raw.FPDF_PAGEOBJ_FORM:
            active = ctypes.c_int()
            if raw.FPDFPageObj_GetIsActive(found, active) and active.value:
                yield found, forms
        elif len(forms) < _DEEPEST:
            yield from leaves_of(page, (*forms, found))


def hide_notes(page: PdfPage) -> None:
    """Mark the annotations of a page that are only for print as hidden."""
    for index in range(raw.FPDFPage_GetAnnotCount(page)):
        note = raw.FPDFPage_GetAnnot(page, index)
        flags = raw.FPDFAnnot_GetFlags(note)
        if flags & raw.FPDF_ANNOT_FLAG_NOVIEW:
            raw.FPDFAnnot_SetFlags(note, flags | raw.FPDF_ANNOT_FLAG_HIDDEN)
        raw.FPDFPage_CloseAnnot(note)


def hide_layers(page: PdfPage) -> None:
    """Deactivate the texts and pictures of a page that lie on layers which are off.

    PDFium does not tell which these are, but draws none of them: what leaves no trace when it is drawn alone is off.
    """
    found = list(leaves_of(page))
    layers = _layers(found, _address)
    if len(layers) > _MOST_TRIED:  # a drawing that goes back and forth between some layers
        layers = _layers(found, _name)
    if not layers:
        return
    everything = [leaf for leaf, _ in found]
    _activate(everything, False)
    hidden = list(layers.values())
    for pixels in _LOOKED_AT:  # small letters of a large page show only in the larger pictures
        empty = _drawn(page, pixels)
        if _drawn(page, pixels, [leaf for leaves in hidden for leaf in leaves]) != empty:
            hidden = [leaves for leaves in hidden if _drawn(page, pixels, leaves) == empty]
    _activate(everything, True)
    for leaves in hidden:
        _activate(leaves, False)


def _layers(
    found: Iterable[tuple[Any, tuple[Any, ...]]], told: Callable[[Any], Any]
) -> dict[tuple[Any, ...], list[Any]]:
    """Return the texts and pictures that may be on layers, by the forms and marks around them; `told` names a mark."""
    layers: dict[tuple[Any, ...], list[Any]] = {}
    for leaf, forms in found:
        marks = (told(mark) for around in (*forms, leaf) for mark in _marks(around))
        if raw.FPDFPageObj_GetType(leaf) in _READ and (layer := (*map(_address, forms), *marks)):
            layers.setdefault(layer, []).append(leaf)
    return layers


def _activate(leaves: Iterable[Any], is_active: bool) -> None:
    for leaf in leaves:
        raw.FPDFPageObj_SetIsActive(leaf, is_active)


def _drawn(page: PdfPage, pixels: int, leaves: Sequence[Any] = ()) -> bytes:
    """Return a small image of a page on which only these objects are drawn, as far as layers allow."""
    # Invisible text leaves no trace on any layer.
    invisible = [leaf for leaf in leaves if raw.FPDFTextObj_GetTextRenderMode(leaf) == INVISIBLE]
    for leaf in invisible:
        raw.FPDFTextObj_SetTextRenderMode(leaf, raw.FPDF_TEXTRENDERMODE_FILL)
    _activate(leaves, True)
    width, height = page.get_size()
    scale = min(1.0, math.sqrt(pixels / (width * height)))
    drawn = page.render(scale=scale, fill_color=_PAPER, may_draw_forms=False, draw_annots=False)
    _activate(leaves, False)
    for leaf in invisible:
        raw.FPDFTextObj_SetTextRenderMode(leaf, INVISIBLE)
    with closing(drawn) as bitmap:
        return bytes(bitmap.buffer)


def _marks(found: Any) -> Iterator[Any]:
    """Yield the marks by which the content of a page puts an object on layers."""
    for index in range(raw.FPDFPageObj_CountMarks(found)):
        mark, name, size = raw.FPDFPageObj_GetMark(found, index), (raw.FPDF_WCHAR * 3)(), ctypes.c_ulong()
        if raw.FPDFPageObjMark_GetName(mark, name, ctypes.sizeof(name), size) and bytes(name) == b"O\0C\0\0\0":
            yield mark


def _name(mark: Any) -> bytes:
    name, size = (raw.FPDF_WCHAR * 128)(), ctypes.c_ulong()
    raw.FPDFPageObjMark_GetParamStringValue(mark, b"Name", name, ctypes.sizeof(name), size)
    return bytes(name)


def _address(handle: Any) -> int:
    return ctypes.addressof(handle.contents)
