"""Recognizes a file by its first bytes, and names the task that takes it, for messages."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Literal

Family = Literal["image", "sound", "video", "document", "other"]

TAKEN_BY: dict[Family, str] = {
    "image": "send it as data.image to task vlm or ocr",
    "sound": "send it as data.audio to task asr or audio-classification",
    "video": "send it as data.video to task video-analysis",
    "document": "send it as data.document to task document-analysis",
}

_LOOKED_AT = 4096

_LEAST_LINE = 24
"""Bytes in a line of base64, on average."""

_LISTED_IN = 1 << 16
"""How many bytes at the end of a zip archive are searched for its list of files."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of file: its name with an article, its family, and what to do with it."""

    name: str
    family: Family
    cure: str = ""


_PACKED = "unpack it and send what is in it"
_PAGE = "the address leads to a web page: give the address of the file itself"
_OFFICE = "save it as PDF"
_PICTURE = "convert it to PNG or JPEG"
_SOUND = "convert it to wav or flac"

_STARTS: tuple[tuple[bytes | tuple[bytes, ...], FileKind], ...] = (
    (b"\x89PNG\r\n\x1a\n", FileKind("a PNG image", "image")),
    (b"\xff\xd8\xff", FileKind("a JPEG image", "image")),
    (b"GIF8", FileKind("a GIF image", "image")),
    (b"BM", FileKind("a BMP image", "image")),
    ((b"II*\0", b"MM\0*"), FileKind("a TIFF image", "image")),
    (b"\0\0\x01\0", FileKind("an icon (ICO)", "image", _PICTURE)),
    (b"8BPS", FileKind("a Photoshop file", "image", _PICTURE)),
    ((b"\xff\x0a", b"\0\0\0\x0cJXL "), FileKind("a JPEG XL image", "image", _PICTURE)),
    (b"\0\0\0\x0cjP  ", FileKind("a JPEG 2000 image", "image", _PICTURE)),
    (b"II\xbc\1", FileKind("a JPEG XR image", "image", _PICTURE)),
    (b"icns", FileKind("an Apple icon (ICNS)", "image", _PICTURE)),
    (b"DDS ", FileKind("a DDS texture", "image", _PICTURE)),
    (b"qoif", FileKind("a QOI image", "image", _PICTURE)),
    (b"\x76\x2f\x31\1", FileKind("an OpenEXR image", "image", _PICTURE)),
    (b"fLaC", FileKind("a FLAC recording", "sound")),
    (b"OggS", FileKind("an Ogg recording", "sound")),
    (b"ID3", FileKind("an MP3 recording", "sound")),
    (b".snd", FileKind("an AU recording", "sound")),
    (b"caff", FileKind("a CAF recording", "sound")),
    (b"#!AMR", FileKind("an AMR recording", "sound")),
    (b"wvpk", FileKind("a WavPack recording", "sound", _SOUND)),
    (b"TTA1", FileKind("a TTA recording", "sound", _SOUND)),
    (b"MAC ", FileKind("a Monkey's Audio recording", "sound", _SOUND)),
    (b"DSD ", FileKind("a DSD recording", "sound", _SOUND)),
    (b"MThd", FileKind("a MIDI file, which holds notes and no sound", "sound", "render it to wav or flac")),
    (b"\x1a\x45\xdf\xa3", FileKind("a Matroska or WebM video", "video")),
    (b"FLV\x01", FileKind("an FLV video", "video")),
    (b"\0\0\x01\xba", FileKind("an MPEG video", "video")),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", FileKind("a WMV or WMA file", "video")),
    (b"\xd0\xcf\x11\xe0", FileKind("an Office document of the old kind", "document", _OFFICE)),
    (b"{\\rtf", FileKind("an RTF document", "document", _OFFICE)),
    (b"%!PS", FileKind("a PostScript file", "document", _OFFICE)),
    (b"AT&TFORM", FileKind("a DjVu document", "document", _OFFICE)),
    (b"PK\x05\x06", FileKind("a zip archive with nothing in it", "other", "send what should be in it")),
    (b"\x93NUMPY", FileKind("a NumPy file", "other", "from Python, send the array itself")),
    (b"\x1f\x8b", FileKind("a gzip archive", "other", _PACKED)),
    (b"BZh", FileKind("a bzip2 archive", "other", _PACKED)),
    (b"\xfd7zXZ\0", FileKind("an xz archive", "other", _PACKED)),
    (b"\x28\xb5\x2f\xfd", FileKind("a zstd archive", "other", _PACKED)),
    (b"7z\xbc\xaf\x27\x1c", FileKind("a 7z archive", "other", _PACKED)),
    (b"Rar!", FileKind("a RAR archive", "other", _PACKED)),
    (b"PAR1", FileKind("a Parquet file", "other", "send the media that its rows name")),
    ((b"\x7fELF", b"MZ"), FileKind("a program", "other")),
    (b"SQLite format 3", FileKind("an SQLite database", "other")),
)

_CHUNKED = {
    b"WAVE": FileKind("a wav recording", "sound"),
    b"AVI ": FileKind("an AVI video", "video"),
    b"WEBP": FileKind("a WebP image", "image"),
    **dict.fromkeys((b"AIFF", b"AIFC"), FileKind("an AIFF recording", "sound")),
}
_HEVC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), FileKind("an AVIF image", "image")),
    **dict.fromkeys(_HEVC_BRANDS, FileKind("a HEIC image", "image", _PICTURE)),
    b"crx ": FileKind("a Canon raw image (CR3)", "image", _PICTURE),
    **dict.fromkeys((b"mif1", b"msf1"), FileKind("a HEIF image", "image", _PICTURE)),
    **dict.fromkeys((b"M4A ", b"M4B "), FileKind("an m4a recording", "sound")),
}
_MP4 = FileKind("an mp4 or mov video", "video")


def kind_of(content: bytes) -> FileKind | None:
    """Return the kind of `content` by its first bytes, None where it is not known."""
    head = content[:_LOOKED_AT]
    if head[:4] in (b"RIFF", b"RF64", b"FORM") and head[8:12] in _CHUNKED:
        return _CHUNKED[head[8:12]]
    if head[4:8] == b"ftyp":
        return next((_BRANDS[brand] for brand in _brands(head) if brand in _BRANDS), _MP4)
    if head[4:8] in (b"styp", b"moov", b"mdat"):
        return _MP4
    if b"%PDF-" in head[:1024]:
        return FileKind("a PDF", "document")
    if head.startswith(b"PK\x03\x04"):
        return _of_zip(head + content[-_LISTED_IN:])
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[128:132] == b"DICM":
        return FileKind("a DICOM image", "image", _PICTURE)
    if re.match(rb"P[1-7fF]\s", head):
        return FileKind("a PPM image", "image")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and (text := _of_utf_16(head)):
        return text
    if head[257:262] == b"ustar":
        return FileKind("a tar archive", "other", _PACKED)
    if head[:1] == b"\x47" and head[188:189] == b"\x47":
        return FileKind("an MPEG transport stream", "video")
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return FileKind("an MP3 or AAC recording", "sound")
    return _of_text(head)


def misplaced(content: bytes, *, wanted: tuple[Family, ...], cure: str) -> str | None:
    """Return what `content` is and where it belongs, where that is none of `wanted`: "a PDF, not an image; ..." or
    "a HEIC image, which is not read; ...".

    None where it is, or may be, what was wanted: then it is damaged.
    """
    kind = kind_of(content)
    if kind is None:
        return None
    if kind.family in wanted:
        return f"{kind.name}, which is not read; {kind.cure}, or {cure}" if kind.cure else None
    article = "an" if wanted[0] == "image" else "a"
    ways_out = [way for way in (kind.cure or TAKEN_BY.get(kind.family), cure) if way]
    return f"{kind.name}, not {article} {_name(wanted)}; {', or '.join(ways_out)}"


def refusal(content: bytes, *, wanted: tuple[Family, ...], cure: str, cut: str = "") -> str:
    """Return why a decoder takes no `content`: what `misplaced` tells, that it is `cut`, else that it is damaged or of
    a rare kind."""
    if told := misplaced(content, wanted=wanted, cure=cure) or cut:
        return told
    if (kind := kind_of(content)) is None:
        return f"no {_name(wanted)} of a known format; {cure}"
    return f"{kind.name} that is damaged, or encoded in a way that is not read; {cure}"


def _name(wanted: tuple[Family, ...]) -> str:
    return "recording" if wanted[0] == "sound" else wanted[0]


def _brands(head: bytes) -> list[bytes]:
    """Return what an mp4 file says that it is, in the order of how much that tells. Source: ISO/IEC 23008-12, 10."""
    size = int.from_bytes(head[:4], "big")
    brands = [head[at : at + 4] for at in (8, *range(16, min(size, 256), 4))]
    return brands if brands[0] not in (b"mif1", b"msf1") else [*brands[1:], brands[0]]


def _of_zip(head: bytes) -> FileKind:
    for mark, name in ((b"word/", "a Word"), (b"xl/", "an Excel"), (b"ppt/", "a PowerPoint")):
        if mark in head:
            return FileKind(f"{name} document", "document", _OFFICE)
    if b"mimetypeapplication/vnd.oasis" in head:
        return FileKind("an OpenDocument file", "document", _OFFICE)
    if b"mimetypeapplication/epub" in head:
        return FileKind("an EPUB book", "document", _OFFICE)
    return FileKind("a zip archive", "other", _PACKED)


def _of_utf_16(head: bytes) -> FileKind | None:
    """Return the kind of a UTF-16 text, None for anything else: frames of MP3 may begin with the same two bytes."""
    for encoding, size in (("utf-32", 4), ("utf-16", 2)):
        with contextlib.suppress(UnicodeDecodeError):
            text = head[: len(head) - len(head) % size].decode(encoding)
            if sum(letter.isprintable() or letter.isspace() for letter in text) > 0.9 * len(text):
                return FileKind(f"a text in {encoding.upper()}", "other", "send a media file")
    return None


def _of_text(head: bytes) -> FileKind | None:
    """Return the kind of a text, None for anything else."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if len(text) < 3 or re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", text):
        return None
    try:
        text[: len(text) - 3].decode()
    except UnicodeDecodeError:
        return None
    start = text[:512].lower()
    if b"<svg" in start:
        return FileKind("an SVG drawing", "other", _PICTURE)
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or b"<html" in start:
        return FileKind("an HTML page", "other", _PAGE)
    if start.startswith(b"<?xml") and b"<error>" in start:
        return FileKind("an XML error of a store", "other", "read it, and give the file's address")
    if start.startswith(b"<"):
        return FileKind("an XML text", "other")
    if start.startswith(b"#extm3u"):
        return FileKind("a playlist", "other", "send the file that it names")
    if start.startswith(b"data:") and b";base64," in start:
        return FileKind("a data: URI in a file", "other", "decode it, or put it into the request itself")
    if start.startswith(b"version https://git-lfs"):
        return FileKind("a pointer of Git LFS", "other", "fetch the file that it stands for (git lfs pull)")
    if start[:1] in b"{[":
        return FileKind("a JSON text", "other")
    # Base64 may be wrapped; words are shorter than its lines, also where blanks stand in place of its plus signs.
    if re.fullmatch(rb"[A-Za-z0-9+/=\s]{64,}", text) and len(text) >= _LEAST_LINE * len(text.split()):
        return FileKind("base64 text", "other", "decode it, or send it as a data: URI")
    return FileKind("a plain text", "other")
