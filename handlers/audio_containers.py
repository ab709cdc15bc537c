"""The sound in containers that soundfile does not read: m4a, webm, the sound track of a video."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from handlers import containers
from handlers.errors import MediaCorrupt

if TYPE_CHECKING:
    from av import AudioFrame, AudioResampler

_FORMATS = (*containers.FORMATS, "aac", "caf", "amr", "ac3", "eac3")
_COVER_PIXELS = 1 << 24
"""Pictures beside the sound are not decoded, but looked at by the one who opens the file."""


@dataclass(frozen=True, slots=True)
class SoundTrack:
    """One track: its `rate` in Hz, its length by the header in seconds, and its mono samples, block by block."""

    rate: int
    channels: int
    claimed_s: float | None
    blocks: Iterator[NDArray[np.float32]]


@contextmanager
def sound_track(content: bytes, what: str, *, unreadable: str, cure: str) -> Iterator[SoundTrack]:
    """Yield the best sound track of the container; nothing but its first frame is decoded yet.

    `unreadable` is the reason to tell of bytes that are no container.

    Raises:
        MediaCorrupt: permanent; no container, no sound in it, or (while blocks are read, too) a damaged one.
    """
    with containers.opened(
        content,
        what,
        formats=_FORMATS,
        max_pixels=_COVER_PIXELS,
        unreadable=f"no readable recording: {unreadable}",
        cure=cure,
    ) as container:
        tracks = [stream for stream in container.streams.audio if containers.is_known(stream)]
        if not tracks:
            raise MediaCorrupt(f"{what} holds no sound, only {containers.kinds(container)}; {cure}")
        best = container.streams.best("audio")
        stream = next((track for track in tracks if track == best), tracks[0])
        packets = containers.packets(container, stream)
        frames = (frame for packet in packets for frame in packet.decode())
        first = next(frames, None)
        if first is None:
            raise MediaCorrupt(f"{what} holds no samples (0 s); {cure}")
        yield SoundTrack(
            rate=first.sample_rate,
            channels=first.layout.nb_channels,
            claimed_s=containers.claimed_duration_s(container, stream.index),
            blocks=_mono_blocks(itertools.chain([first], frames), first.sample_rate, what),
        )


def _mono_blocks(frames: Iterator[AudioFrame], rate: int, what: str) -> Iterator[NDArray[np.float32]]:
    converters: dict[tuple[str, str], AudioResampler] = {}
    for frame in frames:
        if frame.sample_rate != rate:
            raise MediaCorrupt(
                f"{what} changes from {rate} Hz to {frame.sample_rate} Hz in its middle; convert it to one rate"
            )
        yield from map(_mono, _interleaved(frame, converters))


def _interleaved(frame: AudioFrame, converters: dict[tuple[str, str], AudioResampler]) -> list[AudioFrame]:
    """Return the frame with its channels side by side; PyAV reads past the end of 8 and more separate ones."""
    import av

    if not frame.format.is_planar:
        return [frame]
    kind = (frame.format.name, frame.layout.name)
    if kind not in converters:
        converters[kind] = av.AudioResampler(format=frame.format.packed.name)
    return converters[kind].resample(frame)


def _mono(frame: AudioFrame) -> NDArray[np.float32]:
    """Return the samples of an interleaved frame within -1..1, averaged over its channels, (samples,)."""
    samples: NDArray[Any] = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
    mono: NDArray[np.float64] = samples.mean(axis=1, dtype=np.float64)
    match samples.dtype:
        case np.uint8:
            mono = (mono - 128) / 128
        case np.int16 | np.int32 | np.int64:
            mono = mono / -float(np.iinfo(samples.dtype).min)
    return mono.astype(np.float32)
