"""Opens containers of sound and pictures (mp4, webm, ...) in memory, quietly, without access to other files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition as Role
from av.video.stream import VideoStream

from handlers.errors import MediaCorrupt
from handlers.file_kinds import Family, refusal
from handlers.logger import get_logger

log = get_logger(__name__)

AnyStream = TypeVar("AnyStream", AudioStream, VideoStream)

FORMATS = ("mov", "matroska", "ogg", "avi", "flv", "mpegts", "mpeg", "asf")
"""The allowed formats, by FFmpeg's names. Formats that refer to other files or addresses are not among them."""


@contextmanager
def opened(
    content: bytes,
    what: str,
    *,
    formats: tuple[str, ...],
    wanted: tuple[Family, ...],
    max_pixels: int,
    cure: str,
    cut: str = "",
) -> Iterator[InputContainer]:
    """Yield the container in `content`, with its headers read; closed on leaving.

    FFmpeg's errors about damaged bytes become MediaCorrupt; frames of more than `max_pixels` are such an error.
    `cut` is the message about a file that does not open, or has no streams, as its end is missing.

    Raises:
        MediaCorrupt: permanent; no container of `formats`, one without its index, or a damaged one.
    """
    if not content:
        raise MediaCorrupt(f"{what} is empty (0 bytes); {cure}")
    options = {"format_whitelist": ",".join(formats), "protocol_whitelist": "", "max_pixels": str(max_pixels)}
    unread = MediaCorrupt(f"{what} is {refusal(content, wanted=wanted, cure=cure, cut=cut)}")
    container = None
    try:
        with av.open(io.BytesIO(content), "r", options=options, metadata_errors="replace") as container:
            if not container.streams:
                raise unread
            yield container
    except MemoryError:
        raise
    except av.FFmpegError as error:
        if container is None:
            raise unread from error
        log.info("media_damaged", media=what, error=str(error))
        raise MediaCorrupt(f"{what} is damaged: it does not decode to its end; {cure}") from error


def packets(container: InputContainer, stream: AnyStream) -> Iterator[Packet[AnyStream]]:
    """Yield the packets of `stream` in file order; an empty one at the end flushes the decoder."""
    while True:
        try:
            yield from container.demux(stream)
            return
        except IndexError:
            # PyAV raises this for a packet of a stream that appears only in the middle: continue after it.
            continue


def is_known(stream: Any) -> bool:
    """Tell whether there is a decoder for the stream; where there is none, PyAV has no codec context."""
    return stream.codec_context is not None


def by_preference(streams: Iterable[AnyStream]) -> list[AnyStream]:
    """Return the streams that can be decoded: those that accompany others last, before them the one that players take
    by default, else in their order."""
    besides = Role.comment | Role.hearing_impaired | Role.visual_impaired | Role.descriptions | Role.karaoke
    besides |= Role.lyrics | Role.clean_effects | Role.non_diegetic | Role.dependent
    return sorted(
        filter(is_known, streams),
        key=lambda stream: (bool(stream.disposition & besides), not stream.disposition & Role.default),
    )


def about_track(stream: AnyStream, streams: Sequence[AnyStream]) -> dict[str, Any] | None:
    """Return which of several streams was taken, for a result's metadata; None where there is only one."""
    if len(streams) < 2:
        return None
    told = {name: stream.metadata.get(name) for name in ("language", "title")}
    named = {name: value for name, value in told.items() if value not in (None, "", "und")}
    return {"number": streams.index(stream) + 1, "of": len(streams), **named}


def kinds(container: InputContainer) -> str:
    """Return what the container holds, for a message: "audio, video of an unknown codec"."""
    found = {stream.type if is_known(stream) else f"{stream.type} of an unknown codec" for stream in container.streams}
    return ", ".join(sorted(found))


def claimed_duration_s(container: InputContainer, stream_index: int) -> float | None:
    """Return the length of the stream, or else of the container, by the headers, in seconds."""
    stream = container.streams[stream_index]
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / 1e6
