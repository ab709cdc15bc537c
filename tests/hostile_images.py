"""Images made to keep their decoder busy for minutes or to fill the memory, within every limit of bytes and pixels."""

from __future__ import annotations

import struct


def jpeg_of_scans(scans: int, side: int = 2000) -> bytes:
    """A progressive JPEG of one grey and so many scans, each of which runs over all its blocks. Source: ITU-T T.81."""
    blocks = (-(-side // 8)) ** 2
    table = b"\xff\xc4" + struct.pack(">H", 20)
    parts = [
        b"\xff\xd8",
        b"\xff\xdb" + struct.pack(">HB", 67, 0) + bytes([1] * 64),
        b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, side, side, 1) + bytes([1, 0x11, 0]),
        table + b"\x00" + bytes([1, *[0] * 15]) + b"\x00",
        table + b"\x10" + bytes([1, *[0] * 15]) + b"\xe0",
        _scan(0, 0, bytes(-(-blocks // 8))),
    ]
    # Ends of block in runs of up to 32767, one after the other, to the end of the picture.
    bits = "".join(
        "0" + format(max(min(32767, blocks - done), 16384) - 16384, "014b") for done in range(0, blocks, 32767)
    )
    bits += "1" * (-len(bits) % 8)
    runs = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    return b"".join([*parts, _scan(1, 63, runs) * scans, b"\xff\xd9"])


def _scan(first: int, last: int, content: bytes) -> bytes:
    return b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, first, last, 0) + content


def tiff_of_strips(strips: int) -> bytes:
    """A TIFF one pixel wide of which each row lies in a strip of its own."""
    entries = [
        (256, 4, 1, 1),
        (257, 4, 1, strips),
        (258, 4, 1, 8),
        (259, 4, 1, 1),
        (262, 4, 1, 1),
        (273, 4, strips, 8),
        (277, 4, 1, 1),
        (278, 4, 1, 1),
        (279, 4, strips, 8 + 4 * strips),
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<I", 8 + 8 * strips)
    return head + b"\x08\0\0\0" * strips + b"\x01\0\0\0" * strips + directory + bytes(4)


def tiff_of_pages(pages: int) -> bytes:
    """A TIFF of so many pages of one pixel."""
    parts = [b"II*\0", struct.pack("<I", 8)]
    entries = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 0), (277, 1), (278, 1), (279, 1)]
    size = 2 + 12 * len(entries) + 4
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries
    )
    for page in range(pages):
        following = 8 + (page + 1) * size if page + 1 < pages else 0
        parts += [directory, struct.pack("<I", following)]
    return b"".join(parts)


def plain_ppm(width: int, height: int) -> bytes:
    """A picture whose numbers are written out as text, of which each is read by itself."""
    return b"P3 %d %d 255\n" % (width, height) + b"1 " * (3 * width * height)
