"""Decodes sound that soundfile does not read: mp3, m4a, webm, the sound track of a video."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av import AudioFrame, AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet
from numpy.typing import NDArray

from handlers.decoding import containers
from handlers.decoding.audio_samples import Gathering, mixed
from handlers.decoding.declared_length import declared_s
from handlers.errors import MediaCorrupt

_FORMATS = (*containers.FORMATS, "mp3", "aac", "caf", "amr", "ac3", "eac3")

_NO_GAP_S = 0.1
"""Times of packets are rounded; a shorter difference does not count."""

_COVER_PIXELS = 1 << 24
"""Limit for cover pictures, which are not decoded but opened by FFmpeg."""


@dataclass(slots=True)
class SoundTrack:
    """What a track has beside its samples."""

    count: int
    """How many tracks the file has."""
    about: dict[str, Any] | None
    """Which of several tracks it is, for a result's metadata."""
    claimed_s: float | None
    """Its length by the headers, None where that may be the length of another track."""
    declared_s: float | None
    """As `declared_length.declared_s` returns."""
    is_gapless: bool
    """Whether a gap is a loss, which its decoder does not tell; in other formats it may be a pause."""
    gaps_s: float = 0.0
    """By how much the sound is shorter than the times of its frames say."""
    damaged_frames: int = 0
    """How many frames did not decode, in a format whose frames can be skipped."""


def gather_track(
    content: bytes, what: str, gathering: Gathering, since_s: float, *, choice: int, cure: str, is_cut: bool
) -> SoundTrack:
    """Put the track of a container that is number `choice` in the order of preference, from 0, behind the first
    `since_s` of `gathering`.

    Of a file that `is_cut`, what comes before the first damage is all there is.

    Raises:
        MediaCorrupt: permanent; no container, no sound in it, or a damaged one.
        MediaTooLarge: permanent; as `Gathering.add`.
    """
    gathering.back_to(since_s)
    with containers.opened(
        content, what, formats=_FORMATS, wanted=("sound", "video"), max_pixels=_COVER_PIXELS, cure=cure
    ) as container:
        tracks = containers.by_preference(container.streams.audio)
        if not tracks:
            raise MediaCorrupt(
                f"{what} holds no sound, only {containers.kinds(container)}; send a video as data.video to task "
                f"video-analysis, or {cure}"
            )
        stream = tracks[choice]
        claimed_s = containers.claimed_duration_s(container, stream.index)
        track = SoundTrack(
            count=len(tracks),
            about=containers.about_track(stream, container.streams.audio),
            claimed_s=claimed_s if len(container.streams) == 1 else None,
            declared_s=declared_s(content, stream.index, len(container.streams)),
            is_gapless=container.format.name == "asf",
        )
        packets = containers.packets(container, stream)
        frames = _frames(packets, track, is_mp3=container.format.name == "mp3", is_cut=is_cut)
        if (first := next(frames, None)) is not None:
            rate, channels = first.sample_rate, first.layout.nb_channels
            claimed = None if claimed_s is None else claimed_s * rate
            blocks = _mono_blocks(itertools.chain([first], frames), rate, what)
            gathering.add(blocks, rate=rate, channels=channels, claimed=claimed, what=what, cure=cure)
        return track


def _frames(
    packets: Iterable[Packet[AudioStream]], track: SoundTrack, *, is_mp3: bool, is_cut: bool
) -> Iterator[AudioFrame]:
    """Yield the frames, of mp3 all but the damaged ones, of a file that is cut those before the first damage; count the
    damaged ones and the gaps in `track`."""
    end_s = None
    for packet in packets:
        if is_cut and not is_mp3 and packet.is_corrupt:
            return
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except av.FFmpegError:
            if is_mp3:
                track.damaged_frames += 1
                continue
            if is_cut:
                return
            raise
        for frame in frames:
            if frame.time is not None:
                if end_s is not None and frame.time > end_s + _NO_GAP_S:
                    track.gaps_s += frame.time - end_s
                end_s = frame.time + frame.samples / frame.sample_rate
            yield frame


def _mono_blocks(frames: Iterator[AudioFrame], rate: int, what: str) -> Iterator[NDArray[np.float32]]:
    """Yield mono blocks of about a second: with less sound, opposed channels cannot be detected."""
    converters: dict[tuple[str, str], AudioResampler] = {}
    waiting: list[NDArray[np.float32]] = []
    count = 0
    for frame in frames:
        if frame.sample_rate != rate:
            raise MediaCorrupt(
                f"{what} changes from {rate} Hz to {frame.sample_rate} Hz in its middle; convert it to one rate"
            )
        for plain in _interleaved(frame, converters):
            block = _floats(plain)
            if waiting and (count >= rate or waiting[-1].shape[1] != block.shape[1]):
                yield mixed(np.concatenate(waiting))
                waiting, count = [], 0
            waiting.append(block)
            count += len(block)
    if waiting:
        yield mixed(np.concatenate(waiting))


def _interleaved(frame: AudioFrame, converters: dict[tuple[str, str], AudioResampler]) -> list[AudioFrame]:
    """Return a frame of 8 and more channels interleaved: PyAV reads past the end of so many planes."""
    if not frame.format.is_planar or frame.layout.nb_channels < 8:
        return [frame]
    kind = (frame.format.name, frame.layout.name)
    if kind not in converters:
        converters[kind] = av.AudioResampler(format=frame.format.packed.name)
    return converters[kind].resample(frame)


def _floats(frame: AudioFrame) -> NDArray[np.float32]:
    """Return the samples of a frame within -1..1, (samples, channels)."""
    found: NDArray[Any] = frame.to_ndarray()
    samples = found.T if frame.format.is_planar else found.reshape(-1, frame.layout.nb_channels)
    match samples.dtype:
        case np.uint8:
            return ((samples.astype(np.float32) - 128) / 128).astype(np.float32)
        case np.int16 | np.int32 | np.int64:
            return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
        case _:
            return samples.astype(np.float32)
