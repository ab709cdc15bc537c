"""Detects sound and video files with damage in their middle, which decoders pass over in silence."""

from __future__ import annotations

from handlers.decoding import asf, matroska, ogg
from handlers.errors import counted


def damage_of(content: bytes) -> str | None:
    """Return how much of an ogg, webm, mkv, wma or wmv file is damaged, None where nothing is known to be.

    These kinds have checksums, or elements that must fit into each other. A file of another kind is not looked at.
    """
    if content.startswith(ogg.CAPTURE):
        (damaged, count), part = ogg.damaged_pages(content), "page"
    elif content.startswith(matroska.EBML):
        (damaged, count), part = matroska.damaged_clusters(content), "cluster"
    elif content.startswith(asf.HEADER):
        (damaged, count), part = asf.damaged_packets(content), "packet"
    else:
        return None
    return f"{damaged} of its {counted(count, part)} {'is' if damaged == 1 else 'are'} damaged" if damaged else None
