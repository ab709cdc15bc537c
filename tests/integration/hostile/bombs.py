"""Files written by hand: small ones that decode to much, lie about their size, or hold themselves."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

from tests import hostile_documents as documents
from tests.hostile_images import jpeg_of_scans, plain_ppm, tiff_of_pages, tiff_of_strips

Bomb = tuple[str, str, Callable[[], bytes]]
"""The medium, a name, and what makes the file."""


def flac_of_silence(seconds: int, *, rate: int = 16_000, channels: int = 1) -> bytes:
    """A FLAC of some bytes for each thousand samples."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, channels, format="FLAC") as flac:
        for _ in range(seconds // 30):
            flac.write(np.zeros((30 * rate, channels), np.int16))
    return file.getvalue()


def rf64_that_claims(size: int) -> bytes:
    """An RF64 of 64 bytes of sound whose header claims `size`."""
    form = b"fmt \x10\0\0\0" + struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    sizes = b"ds64" + struct.pack("<IQQQI", 28, size, size, size // 2, 0)
    return b"RF64\xff\xff\xff\xffWAVE" + sizes + form + b"data\xff\xff\xff\xff" + bytes(64)


def wav_that_claims(*, size: int, rate: int = 16_000, channels: int = 1) -> bytes:
    """A wav whose header claims what is not there."""
    form = struct.pack("<HHIIHH", 1, channels & 0xFFFF, rate, rate * 2, 2, 16)
    body = b"WAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", size) + bytes(64)
    return b"RIFF" + struct.pack("<I", size) + body


def mp4_of_boxes(depth: int) -> bytes:
    """Boxes within boxes."""
    inside = b""
    for _ in range(depth):
        inside = struct.pack(">I", len(inside) + 8) + b"moov" + inside
    return struct.pack(">I", 16) + b"ftypisom\0\0\0\0" + inside


def mkv_of_masters(depth: int) -> bytes:
    """A Matroska segment of groups within groups, each of unknown size."""
    head = b"\x1a\x45\xdf\xa3\x93\x42\x82\x88matroska\x42\x87\x81\x04\x42\x85\x81\x02"
    return head + b"\x18\x53\x80\x67\x01" + b"\xff" * 7 + b"\x1f\x43\xb6\x75\x01\xff\xff\xff\xff\xff\xff\xff" * depth


def mp4_of_streams(count: int) -> bytes:
    """An mp4 of so many tracks of one picture each."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        streams = [container.add_stream("mjpeg", rate=10) for _ in range(count)]
        for stream in streams:
            stream.width = stream.height = 16
            stream.pix_fmt = "yuvj420p"
        for stream in streams:
            frame = av.VideoFrame(16, 16, "yuvj420p")
            container.mux([*stream.encode(frame), *stream.encode()])
    return file.getvalue()


def gif_of(frames: int) -> bytes:
    """A GIF of so many frames of one pixel."""
    frame = b"\x21\xf9\x04\0\1\0\0\0," + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\x02\x02\x44\x01\0"
    head = b"GIF89a" + struct.pack("<HH", 16, 16) + b"\xf0\0\0" + bytes(3) + b"\xff" * 3
    return head + frame * frames + b";"


def png_of(width: int, height: int, *, rows: bool, bits: int = 1) -> bytes:
    """A PNG of one or 32 bits a pixel, the latter with alpha; without rows it only claims them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packed = zlib.compress(bytes((width * bits // 8 + 1) * height) if rows else b"")
    depth, colour = (1, 0) if bits == 1 else (8, 6)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def picture_of(kind: str, side: int, mode: str = "L", **how: Any) -> bytes:
    """A picture of nothing that packs well."""
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, kind, **how)
    return file.getvalue()


QUICK: tuple[Bomb, ...] = (
    ("sound", "ten minutes of silence", lambda: flac_of_silence(600)),
    ("sound", "a wav that claims 4 GB", lambda: wav_that_claims(size=0xFFFFFFFF)),
    ("sound", "an rf64 that claims 4 EB", lambda: rf64_that_claims(2**62)),
    ("image", "a gif of 100 000 frames", lambda: gif_of(100_000)),
    ("video", "a thousand streams", lambda: mp4_of_streams(1000)),
    ("document", "a page as thin as a thread", documents.thin_page),
    ("document", "a picture of 1.6 gigapixels", documents.lying_jbig2),
    ("image", "a png that claims a billion pixels", lambda: png_of(2**30, 1, rows=False)),
    ("image", "a tiff of a million strips", lambda: tiff_of_strips(1_000_000)),
    ("video", "boxes within boxes", lambda: mp4_of_boxes(2000)),
    ("video", "masters within masters", lambda: mkv_of_masters(2000)),
    ("document", "a form that draws itself", documents.self_drawing_form),
)
SLOW: tuple[Bomb, ...] = (
    ("sound", "3.9 hours of silence", lambda: flac_of_silence(14_040)),
    (
        "sound",
        "8 channels of 192 kHz for 45 minutes",
        lambda: flac_of_silence(2700, rate=192_000, channels=8),
    ),
    ("sound", "a wav of no channels", lambda: wav_that_claims(size=64, channels=0)),
    ("sound", "a wav of 65535 channels", lambda: wav_that_claims(size=64, channels=65_535)),
    ("sound", "an ID3 tag of 256 MB", lambda: b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(500)),
    ("sound", "a thousand headers", lambda: wav_that_claims(size=64) * 1001),
    ("image", "a png of 99 megapixels", lambda: png_of(9_950, 9_950, rows=True)),
    ("image", "a png of 99 megapixels with alpha", lambda: png_of(9_950, 9_950, rows=True, bits=32)),
    ("image", "a webp of 99 megapixels", lambda: picture_of("WEBP", 9_950)),
    ("image", "a tiff of 99 megapixels", lambda: picture_of("TIFF", 9_950, "F", compression="tiff_lzw")),
    ("image", "an avif of 99 megapixels", lambda: picture_of("AVIF", 9_950, "RGB", speed=10)),
    ("image", "a gif of 99 megapixels", lambda: picture_of("GIF", 9_950)),
    ("image", "a jpeg of scans", lambda: jpeg_of_scans(400)),
    ("image", "a tiff of pages", lambda: tiff_of_pages(50_000)),
    ("image", "a picture in letters", lambda: plain_ppm(1000, 1000)),
    ("document", "a group masked by itself", documents.masking_itself),
    ("document", "a fan of forms", documents.fan_of_forms),
    ("document", "an endless pattern", documents.endless_pattern),
    ("document", "an endless shading", documents.endless_shading),
    ("document", "a million letters", documents.far_too_many_letters),
    ("document", "a gigabyte of lines", documents.unpacking_content),
)
