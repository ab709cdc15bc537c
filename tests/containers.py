"""Sounds and pictures encoded into the containers that people send: made by the tests themselves, in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

_TICK = Fraction(1, 1000)


def encoded_video(
    frames: Any,
    *,
    container: str = "mp4",
    codec: str = "libx264",
    times_ms: Sequence[int] | None = None,
    rate: int = 10,
    options: dict[str, str] | None = None,
    index_first: bool = False,
    sound: Any = None,
) -> bytes:
    """Return uint8 `frames` (n, height, width, 3) as a video, shown at `times_ms`, else at `rate` a second.

    `options` are the encoder's. `sound` is float mono samples at 48 kHz. `index_first` puts the index of an mp4
    before its pictures, as for the web.
    """
    times, tick = (range(len(frames)), Fraction(1, rate)) if times_ms is None else (times_ms, _TICK)

    def write(output: Any) -> None:
        stream: Any = output.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = {"gif": "bgr8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        stream.codec_context.time_base = tick
        sounds: Any = None if sound is None else output.add_stream("aac", rate=48_000, layout="mono")
        for pixels, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, tick
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if sounds is not None:
            output.mux(sounds.encode(_audio_frame(sound, 48_000, "mono")))
            output.mux(sounds.encode())

    return _written(container, write, index_first=index_first)


def encoded_sound(
    samples: Any, *, container: str, codec: str, rate: int, layout: str = "mono", index_first: bool = False
) -> bytes:
    """Return float `samples` within -1..1, (samples,), on every channel of `layout`, as a file."""

    def write(output: Any) -> None:
        stream: Any = output.add_stream(codec, rate=rate, layout=layout)
        if codec == "wmav2":  # it has no default
            stream.bit_rate = 64_000
        output.mux(stream.encode(_audio_frame(samples, rate, layout)))
        output.mux(stream.encode())

    return _written(container, write, index_first=index_first)


@dataclass(frozen=True, slots=True)
class Track:
    """One of several tracks: float mono samples at 48 kHz, or uint8 frames of a video at 10 a second."""

    content: Any
    codec: str = "aac"
    flags: Disposition | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def encoded_tracks(*tracks: Track, container: str = "matroska") -> bytes:
    """Return the tracks side by side in one file, marked with their flags where the container has such."""

    def write(output: Any) -> None:
        streams = [_track(output, track) for track in tracks]
        packets: list[Any] = []
        for stream, track in zip(streams, tracks, strict=True):
            for frame in _frames_of(track.content):
                packets += stream.encode(frame)
            packets += stream.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            output.mux(packet)

    return _written(container, write, index_first=False)


def _track(output: Any, track: Track) -> Any:
    if track.content.ndim == 1:
        stream = output.add_stream(track.codec, rate=48_000, layout="mono")
    else:
        stream = output.add_stream(track.codec, rate=10)
        stream.height, stream.width = track.content.shape[1:3]
        stream.pix_fmt = "yuvj420p" if track.codec == "mjpeg" else "yuv420p"
    stream.disposition = track.flags or Disposition(0)
    stream.metadata.update(track.metadata)
    return stream


def _frames_of(content: Any) -> Iterator[Any]:
    if content.ndim == 1:
        yield _audio_frame(content, 48_000, "mono")
        return
    for time, pixels in enumerate(content):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = time, Fraction(1, 10)
        yield frame


def _written(container: str, write: Callable[[Any], None], *, index_first: bool) -> bytes:
    """Return the file that `write` fills; one whose index comes first is written twice, so it needs a name."""
    options = {"movflags": "faststart"} if index_first else {}
    with tempfile.NamedTemporaryFile() as file:
        with av.open(file.name, "w", format=container, options=options) as output:
            write(output)
        return Path(file.name).read_bytes()


def _audio_frame(samples: Any, rate: int, layout: str) -> av.AudioFrame:
    channels = av.AudioLayout(layout).nb_channels
    interleaved = np.repeat(np.asarray(samples, np.float32), channels)[np.newaxis]
    frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    return frame


def with_display_matrix(mp4: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """Return `mp4` with the picture of its first track turned or mirrored by [a b; c d], each -1, 0 or 1.

    Source: ISO/IEC 14496-12 section 8.3.2 (track header).
    """
    values = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    matrix = b"".join((value & 0xFFFFFFFF).to_bytes(4, "big") for value in values)
    start = mp4.index(b"tkhd") + 4 + 40
    return mp4[:start] + matrix + mp4[start + 36 :]
