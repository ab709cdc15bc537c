"""Finds the frames of a video, and decodes just the wanted ones: exact in any container, at any frame rate.

The container is read twice, which costs little as it is in memory: first the packets, for the times of their frames;
then the frames that the wanted ones depend on are decoded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from handlers.decoding import containers

_CHAINED = frozenset({"apng", "gif"})
"""Codecs whose frames may all depend on the first, whatever their packets say."""

_UNDATED = frozenset({"avi"})
"""Containers without times of frames; FFmpeg guesses them, wrongly where frames are reordered."""

_JOINABLE = frozenset({"mpegts", "mpeg"})
"""Containers that may be joined at any point: their times start again there."""

_MARKED_BEFORE_JOINT = 4
"""Among how many packets before a joint FFmpeg marks one as damaged, as the count of the next does not follow."""

_ASSUMED_RATE = 25

_MOST_BACK_S, _MOST_AHEAD_S = 0.5, 10.0
"""Packets whose times differ more from those before begin another part of a joined file; so does FFmpeg's program."""

_ROUNDING_S = 1e-6
"""Seconds are floats, so 4.1 may lie a little before the frame that is shown from 4.1 s on."""


@dataclass(frozen=True, slots=True)
class FrameIndex:
    """The time of each packet's frame, packets in decoding order, times in units of `time_base`; immutable."""

    times: tuple[int, ...]
    starts: tuple[int, ...]
    """Positions of the packets that decoding can begin at, ascending."""
    shown: tuple[int, ...]
    """The times of all frames that can be decoded, ascending; empty where there are none."""
    end: int
    """When the last frame ends."""
    time_base: Fraction
    is_dated: bool
    """Whether the decoder returns frames with their times; else the n-th frame has the n-th time."""
    is_damaged: bool = False
    """Whether packets are left out, as they or the container are damaged."""
    covered_s: float = 0.0
    """How long frames are shown, without the gaps between them."""

    @property
    def duration_s(self) -> float:
        return self.seconds(self.end) if self.shown else 0.0

    def seconds(self, time: int) -> float:
        """Return `time` in seconds since the first frame."""
        return float((time - self.shown[0]) * self.time_base)

    def at(self, seconds: Iterable[float]) -> list[int]:
        """Return the times of the frames seen at `seconds` since the first frame, each once, ascending."""
        moments = (self.shown[0] + Fraction(second + _ROUNDING_S) / self.time_base for second in seconds)
        return sorted({self.shown[max(0, bisect_right(self.shown, moment) - 1)] for moment in moments})

    def packets_for(self, wanted: Iterable[int]) -> list[tuple[int, int]]:
        """Return (first, last) positions of the packets to decode for the frames at times `wanted`, ascending."""
        if not self.is_dated:
            return [(self.starts[0], len(self.times) - 1)]
        where = {time: position for position, time in enumerate(self.times)}
        spans: list[tuple[int, int]] = []
        for last in sorted(where[time] for time in wanted):
            before = bisect_right(self.starts, last) - 1
            # Frames that follow a start but are shown before it may depend on what came before it.
            while before > 0 and self.times[self.starts[before]] > self.times[last]:
                before -= 1
            first = self.starts[before]
            if spans and first <= spans[-1][1] + 1:
                spans[-1] = (spans[-1][0], last)
            else:
                spans.append((first, last))
        return spans


def index_frames(container: InputContainer, stream: VideoStream) -> FrameIndex:
    """Return the index of `stream`; reads the container to its end, or to where it is damaged."""
    faults: list[str] = []
    found = [
        (packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, packet.is_discard)
        for packet in _packets(container, stream, faults)
    ]
    pts, dts, durations, are_keys, are_hidden = zip(*found, strict=True) if found else ((),) * 5
    starts = [position for position, is_key in enumerate(are_keys) if is_key]
    time_base = stream.time_base or Fraction(1, 90_000)
    rate = stream.average_rate or stream.guessed_rate or Fraction(_ASSUMED_RATE)
    a_frame = max(1, round(1 / (rate * time_base)))
    times = _whole(pts) or _whole(dts) or [position * a_frame for position in range(len(pts))]
    if not starts or stream.codec_context.name in _CHAINED:
        starts = starts[:1] or [0]
    # What comes before the first start, in decoding or on the screen, cannot be decoded.
    ends = {
        times[position]: times[position] + (durations[position] or a_frame)
        for position in range(starts[0], len(times))
        if times[position] >= times[starts[0]] and not are_hidden[position]
    }
    shown = sorted(ends)
    end = max(ends.values(), default=0)
    return FrameIndex(
        times=tuple(times),
        starts=tuple(starts),
        shown=tuple(shown),
        end=end,
        time_base=time_base,
        is_dated=None not in pts and container.format.name not in _UNDATED,
        is_damaged=bool(faults),
        covered_s=float(time_base * sum(min(ends[time], after) - time for time, after in pairwise([*shown, end]))),
    )


def decode_frames(
    container: InputContainer, stream: VideoStream, index: FrameIndex, wanted: Iterable[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the frames at times `wanted` of a container just opened, with their times, as they are decoded:
    ascending unless the container is damaged.

    Frames that are damaged do not come.
    """
    missing = set(wanted)
    spans = index.packets_for(missing)
    codec = stream.codec_context
    passed = 0
    for position, packet in enumerate(_packets(container, stream, [])):
        if not spans or not missing:
            return
        first, last = spans[0]
        if position < first:
            continue
        frames = _decoded(codec, packet)
        if position == last:
            spans.pop(0)
            frames += _decoded(codec, None)
            codec.flush_buffers()
        for frame in frames:
            time = frame.pts if frame and index.is_dated else index.shown[min(passed, len(index.shown) - 1)]
            passed += 1
            if frame and time in missing:
                missing.discard(time)
                yield time, frame


def _packets(container: InputContainer, stream: VideoStream, faults: list[str]) -> Iterator[Packet[VideoStream]]:
    """Yield the whole packets of `stream`, to the end or to where the container is damaged; add to `faults` why
    others do not come."""
    times = _Times(stream) if container.format.name in _JOINABLE else None
    waiting: deque[Packet[VideoStream]] = deque()
    try:
        for packet in containers.packets(container, stream):
            if not packet.size:
                continue
            if times is not None and times.go_on(packet):
                yield from waiting  # they are marked as damaged only for what follows them
                waiting.clear()
            waiting.append(packet)
            if times is None or len(waiting) > _MARKED_BEFORE_JOINT:
                yield from _whole_packets([waiting.popleft()], faults)
    except MemoryError:
        raise
    except av.FFmpegError as error:
        faults.append(str(error))
    yield from _whole_packets(waiting, faults)


def _whole_packets(packets: Iterable[Packet[VideoStream]], faults: list[str]) -> Iterator[Packet[VideoStream]]:
    for packet in packets:
        if packet.is_corrupt:
            faults.append("a damaged packet")
        else:
            yield packet


class _Times:
    """Makes the times of packets go on where they start again."""

    def __init__(self, stream: VideoStream) -> None:
        tick = stream.time_base or Fraction(1, 90_000)
        self._back, self._ahead = round(_MOST_BACK_S / tick), round(_MOST_AHEAD_S / tick)
        self._a_frame = round(1 / ((stream.average_rate or _ASSUMED_RATE) * tick))
        self._last: int | None = None
        self._shift = 0

    def go_on(self, packet: Packet[VideoStream]) -> bool:
        """Correct the times of the next packet; return whether it is the first after others began."""
        if packet.dts is None:
            return False
        last, self._last = self._last, packet.dts
        begins_anew = last is not None and not last - self._back <= packet.dts <= last + self._ahead
        if last is not None and begins_anew:
            self._shift += last + self._a_frame - packet.dts
        packet.dts += self._shift
        if packet.pts is not None:
            packet.pts += self._shift
        return begins_anew


def _decoded(codec: VideoCodecContext, packet: Packet[VideoStream] | None) -> list[av.VideoFrame | None]:
    """Return the frames that come out of the decoder for `packet` (None: all that are left), None for a damaged one."""
    try:
        return [*codec.decode(packet)]
    except MemoryError:
        raise
    except av.FFmpegError:
        return [None]


def _whole(stamps: Sequence[int | None]) -> list[int] | None:
    """Return `stamps` if none is missing."""
    known = [stamp for stamp in stamps if stamp is not None]
    return known if len(known) == len(stamps) else None
