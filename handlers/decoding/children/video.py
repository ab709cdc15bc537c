"""Takes some frames of an encoded video of any common format, upright, with their times.

Runs in a child process (`handlers.decoding.children.child`): a file of some kilobytes can ask for minutes of work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from handlers.decoding import containers, declared_length
from handlers.decoding.audio_parts import parts_of
from handlers.decoding.children.video_frames import FrameIndex, decode_frames, index_frames
from handlers.decoding.damage import ENOUGH, MissingEnd, damage_of, missing_end
from handlers.decoding.pixel_limits import check_size
from handlers.decoding.video import Frames, Sampling
from handlers.errors import MediaCorrupt, MediaTooLarge, counted
from handlers.file_kinds import TAKEN_BY
from handlers.settings import MediaSettings

_FORMATS = (*containers.FORMATS, "gif", "apng")
_CURE = "send a whole mp4, webm, mov, mkv, avi or gif file"

_MOST_TRACKS = 8
"""How many video streams are searched for one with several frames."""

_MOST_PIXELS_DECODED = 2 * 10**11
"""Most pixels decoded for one video, including unwanted frames: about an hour of full HD without key frames."""

Opened = Callable[[], AbstractContextManager[InputContainer]]


def read_frames(
    content: bytes, *, what: str, limits: dict[str, Any], sampling: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], memoryview]]:
    """Yield the fields of a `handlers.decoding.video.Video`, with the shape of its frames, and their bytes; raise what
    `read_video` there does."""
    allowed = MediaSettings.model_validate(limits)
    content, *further = parts_of(content)
    missing = missing_end(content)
    opened = partial(
        containers.opened,
        content,
        what,
        formats=_FORMATS,
        wanted=("video",),
        max_pixels=allowed.max_image_pixels,
        cure=_CURE,
        cut=f"cut short: {missing.text}; {_CURE}" if missing else "",
    )
    choice, index = _first_that_moves(opened, what, allowed)
    if not index.shown:
        raise MediaCorrupt(f"{what} holds no pictures; {_CURE}")
    _check_length(index.duration_s, what, allowed)
    moments = Sampling(**sampling).moments(index.duration_s, what, allowed.max_frames)
    with opened() as container:
        stream = _picture_streams(container, what)[choice]
        track = containers.about_track(stream, container.streams.video)
        lost = _losses(container, stream, index, content, missing, what)
        if further:
            count = len(further) + 1
            lost.append(f"the file consists of {count} concatenated videos; only the first was read")
        wanted = index.at(moments)
        _check_work(index, wanted, stream, what)
        frames, times = _frames(container, stream, what, allowed.max_image_pixels, index, wanted)
    if len(times) < len(wanted):
        undecodable = len(wanted) - len(times)
        lost.append(f"{undecodable} of {counted(len(wanted), 'frame')} cannot be decoded, for damage")
    about = {
        "shape": frames.shape,
        "frame_times_s": times,
        "duration_s": round(index.duration_s, 6),
        "truncated": "; ".join(lost) or None,
        "track": track,
    }
    yield about, np.ascontiguousarray(frames).data.cast("B")


def _losses(
    container: InputContainer,
    stream: VideoStream,
    index: FrameIndex,
    content: bytes,
    missing: MissingEnd | None,
    what: str,
) -> list[str]:
    """Return what is missing of a file without its end, or with damage in its middle; MediaCorrupt (permanent) where
    more is missing than is there."""
    lost = []
    claimed_s = containers.claimed_duration_s(container, stream.index)
    if missing:
        is_known = claimed_s is not None and claimed_s > index.duration_s  # of an ogg, FFmpeg tells what came
        whole = f"{claimed_s:.1f} s" if is_known else "an unknown length"
        there = f"{index.duration_s:.1f} s of {whole} are there"
        if not missing.is_little if claimed_s is None else index.duration_s < ENOUGH * claimed_s:
            raise MediaCorrupt(f"{what} is cut short: {missing.text}, only {there}; {_CURE}")
        lost.append(f"{missing.text}; {there}")
    damage = damage_of(content)
    declared_s = declared_length.declared_s(content, stream.index, len(container.streams))
    is_short = not missing and declared_length.is_short(index.duration_s, declared_s)
    if damage or is_short or (index.is_damaged and not missing):
        is_alone = damage and len(container.streams) == 1  # else it may be the length of another
        whole_s = max(index.duration_s, (is_alone and claimed_s) or declared_s or 0.0)
        there = f"{index.covered_s:.1f} s of {whole_s:.1f} s"
        if index.duration_s < ENOUGH * whole_s:
            raise MediaCorrupt(f"{what} is damaged: only {there} can be read; {_CURE}")
        lost.append(f"{damage or 'the file is damaged'}; {there} can be read")
    return lost


def _first_that_moves(opened: Opened, what: str, limits: MediaSettings) -> tuple[int, FrameIndex]:
    """Return the place among `_picture_streams` of one with several frames: others may be covers not marked as such."""
    found: list[FrameIndex] = []
    for choice in range(_MOST_TRACKS):
        with opened() as container:
            streams = _picture_streams(container, what)
            stream = streams[choice]
            check_size(what, stream.width, stream.height, limits.max_image_pixels, has="has frames of")
            claimed_s = containers.claimed_duration_s(container, stream.index)
            _check_length(claimed_s or 0.0, what, limits)
            found.append(index_frames(container, stream))
        if len(found[-1].shown) > 1 or choice + 1 == len(streams):
            break
    return max(enumerate(found), key=lambda one: len(one[1].shown))


def _check_length(duration_s: float, what: str, limits: MediaSettings) -> None:
    if duration_s > limits.max_video_s:
        raise MediaTooLarge(
            f"{what} is {duration_s:.0f} s long; media.max_video_s allows {limits.max_video_s:g} s: send it in parts"
        )


def _picture_streams(container: InputContainer, what: str) -> list[VideoStream]:
    """Return the decodable streams of moving pictures, the preferred one first."""
    sized = filter(containers.is_known, container.streams.video)
    known = containers.by_preference(sorted(sized, key=lambda one: -one.width * one.height))
    moving = [stream for stream in known if not stream.disposition & Disposition.attached_pic]
    if not moving:
        kinds = "a cover picture" if known else containers.kinds(container)
        elsewhere = f"{TAKEN_BY['sound']}, or " if container.streams.audio else ""
        raise MediaCorrupt(f"{what} holds no video, only {kinds}; {elsewhere}{_CURE}")
    # An animated AVIF has its first picture in a separate stream.
    return sorted(moving, key=lambda stream: stream.frames == 1)


def _check_work(index: FrameIndex, wanted: list[int], stream: VideoStream, what: str) -> None:
    """Refuse a video that would take many minutes: each frame depends on all before it."""
    count = sum(last - first + 1 for first, last in index.packets_for(wanted))
    if count * stream.width * stream.height > _MOST_PIXELS_DECODED:
        raise MediaTooLarge(
            f"{what} takes decoding of {count} frames of {stream.width} x {stream.height} pixels to get at "
            f"{len(wanted)} of them; send it scaled down, in parts, or encoded with more key frames"
        )


def _frames(
    container: InputContainer, stream: VideoStream, what: str, max_pixels: int, index: FrameIndex, wanted: list[int]
) -> tuple[Frames, list[float]]:
    """Return the frames at times `wanted` that decode, and their times in seconds, ascending."""
    stream.codec_context.options = {"max_pixels": str(max_pixels)}
    # Videos are decoded side by side already. A frame that converts itself sets up another scaler with its threads.
    stream.codec_context.thread_count = 1
    to_rgb = VideoReformatter()
    frames: Frames | None = None
    times: list[float] = []
    for time, frame in decode_frames(container, stream, index, wanted):
        if not times:
            width, height = _fitting(frame.width, frame.height, len(wanted), max_pixels)
            turn = _upright(frame)
        picture = turn(to_rgb.reformat(frame, width, height, "rgb24", threads=1).to_ndarray())
        if frames is None:
            frames = np.empty((len(wanted), *picture.shape), np.uint8)
        frames[len(times)] = picture
        times.append(round(index.seconds(time), 6))
    if frames is None or 2 * len(times) < len(wanted):
        there = f"{len(times)} of {len(wanted)}" if times else "none"
        raise MediaCorrupt(f"{what} is damaged: {there} of the frames asked for can be decoded; {_CURE}")
    order = sorted(range(len(times)), key=times.__getitem__)
    if order != list(range(len(wanted))):  # some are missing, or late as their times are damaged
        frames = frames[order]
    return frames, [times[place] for place in order]


def _fitting(width: int, height: int, count: int, max_pixels: int) -> tuple[int, int]:
    """Return the size at which `count` frames together have at most `max_pixels`."""
    scale = min(1.0, math.sqrt(max_pixels / (width * height * count)))
    return max(1, int(width * scale)), max(1, int(height * scale))


def _upright(frame: av.VideoFrame) -> Callable[[Any], Frames]:
    """Return the operation that turns a frame as its display matrix says.

    Source: ISO/IEC 14496-12 section 6.2.2: x' = a x + c y, y' = b x + d y, with y growing downwards.
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    a, b, _, c, d = (1, 0, 0, 0, 1) if matrix is None else np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    swaps = abs(b) > abs(a)
    flip_x, flip_y = (c < 0, b < 0) if swaps else (a < 0, d < 0)

    def turn(picture: Any) -> Frames:
        turned: Frames = picture.transpose(1, 0, 2) if swaps else picture
        return turned[:: -1 if flip_y else 1, :: -1 if flip_x else 1]

    return turn
