"""Finds where ASF files (wma, wmv) end, and checks their packets.

Source: Advanced Systems Format (ASF) Specification 1.20.03, sections 2, 3.1, 3.2, 5 and 5.2.
"""

from __future__ import annotations

import struct

HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
"""How every file begins."""

_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_DATA_HEADER = 50
_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_CORRECTED = b"\x82\0\0"
"""How every packet begins where the first does: it has data for the correction of errors, all of them 0."""


def end_of(content: bytes, at: int = 0) -> int | None:
    """Return where the packets of the file at `at` end by its headers, None where it does not know."""
    packets = _packets(content, at)
    return None if packets is None else packets.stop


def length_s(content: bytes) -> float | None:
    """Return the length by the headers in seconds, None where it is not known, as of a live recording."""
    if _packets(content, 0) is None:
        return None
    play, _, preroll = struct.unpack_from("<64xQQQ", content, content.find(_PROPERTIES))
    return play / 1e7 - preroll / 1e3 if play else None


def damaged_packets(content: bytes) -> tuple[int, int]:
    """Return how many packets are damaged, and how many there are; damage within a packet is not seen."""
    packets = _packets(content, 0)
    if packets is None or not content.startswith(_CORRECTED, packets.start):
        return 0, 0
    starts = range(packets.start, min(packets.stop, len(content)) - packets.step + 1, packets.step)
    return sum(not content.startswith(_CORRECTED, start) for start in starts), len(starts)


def _packets(content: bytes, at: int) -> range | None:
    """Return where the packets of the file at `at` begin by its headers, None where it does not know."""
    data = at + int.from_bytes(content[at + 16 : at + 24], "little")
    size = int.from_bytes(content[data + 16 : data + 24], "little")
    properties = content.find(_PROPERTIES, at, data)
    fields = content[properties : properties + 104]
    packet_size = int.from_bytes(fields[92:96], "little")
    is_live = len(fields) < 104 or bool(fields[88] & 1)
    if not content.startswith(_DATA, data) or size <= _DATA_HEADER or is_live or not packet_size:
        return None
    return range(data + _DATA_HEADER, data + size, packet_size)
