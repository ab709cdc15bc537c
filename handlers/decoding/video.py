"""Decodes some frames of videos of any common format, upright, with their times."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from handlers.decoding import containers
from handlers.decoding.audio_parts import parts_of
from handlers.decoding.children import processes
from handlers.decoding.children.processes import ChildEnded
from handlers.decoding.pixel_budget import check_size
from handlers.decoding.truncation import MissingEnd, missing_end_of_container
from handlers.decoding.video_frames import FrameIndex, decode_frames, index_frames
from handlers.errors import InvalidInput, InvalidOption, MediaCorrupt, MediaTooLarge
from handlers.file_kinds import TAKEN_BY, refusal
from handlers.logger import get_logger
from handlers.media import encoded_file
from handlers.options.spec import shown
from handlers.settings import MediaSettings

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

log = get_logger(__name__)

Frames = NDArray[np.uint8]

DEFAULT_FRAMES = 16

_FORMATS = (*containers.FORMATS, "gif", "apng")
_CURE = "send a whole mp4, webm, mov, mkv, avi or gif file"
_CURE_OF_A_CHILD = "send it shorter, smaller, or encoded again (mp4) with more key frames"
_RATES = (0.001, 1000.0)

_ENOUGH = 0.5
"""A video without its end is used if this part of it is there."""

_MOST_TRACKS = 8
"""How many video streams are searched for one with several frames."""

_MOST_PIXELS_DECODED = 2 * 10**11
"""Most pixels decoded for one video, including unwanted frames: about an hour of full HD without key frames."""


@dataclass(frozen=True, slots=True)
class Video:
    """The frames taken from a video; `frames` is (n, height, width, 3) RGB, at least one frame."""

    frames: Frames
    frame_times_s: list[float]
    """The time of each, in seconds since the first frame of the video, ascending."""
    duration_s: float
    truncated: str | None = None
    """What is missing of it, None where it is complete."""
    track: dict[str, Any] | None = None
    """Which of several videos was taken, as `containers.about_track` says."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames to take: `num_frames` in the middles of equal spans, or one every `every_s` seconds from 0 on."""

    num_frames: int = DEFAULT_FRAMES
    every_s: float | None = None

    def moments(self, duration_s: float) -> list[float]:
        """Return the times of the frames to take of a video of that length, in seconds, at least one."""
        if self.every_s is None:
            return [(index + 0.5) * duration_s / self.num_frames for index in range(self.num_frames)]
        return [index * self.every_s for index in range(self.count(duration_s))]

    def count(self, duration_s: float) -> int:
        if self.every_s is None:
            return self.num_frames
        return max(1, math.ceil(duration_s / self.every_s))


def read_video(
    value: Any,
    *,
    field: str,
    limits: MediaSettings,
    num_frames: int | None = None,
    every_s: float | None = None,
    frame_rate: Any = None,
    in_child: bool = False,
) -> Video:
    """Return `num_frames` (default 16) frames of the video in `value`, or one for each `every_s` seconds.

    `value` is a Media or bytes (an encoded file; animated GIFs too), or a numpy array (n, height, width, 3) of
    uint8 RGB, shown at `frame_rate` (Hz, default 25); of an array all frames are taken unless a number is
    asked for. A video of fewer frames gives all it has, each once. Frames that together have more than
    `limits.max_image_pixels` come scaled down. Of a file without its end, what is left is used if it is at
    least half. `in_child` decodes files in a child process, within the limits that `limits` sets for these.

    Raises:
        InvalidInput: permanent; no video at all, or an array of the wrong kind.
        MediaCorrupt: permanent; bytes that are empty, no video, without pictures, or too damaged.
        InvalidOption: permanent; asks for more frames than `limits` allow.
        MediaTooLarge: permanent; longer, with larger or with more frames than `limits` allow; before decoding.
    """
    sampling = Sampling(num_frames or min(DEFAULT_FRAMES, limits.max_frames), every_s)
    if file := encoded_file(value, field, besides=np.ndarray):
        return (_decode_in_child if in_child else decode_file)(*file, limits, sampling)
    everything = num_frames is None and every_s is None
    return _from_array(value, field, limits, frame_rate, None if everything else sampling)


def decode_file(content: bytes, what: str, limits: MediaSettings, sampling: Sampling) -> Video:
    """Return frames of an encoded video as `read_video` does, decoded in this process; messages call it `what`."""
    missing = missing_end_of_container(content)
    choice, index = _first_that_moves(content, what, limits, missing)
    if not index.shown:
        raise MediaCorrupt(f"{what} holds no pictures; {_CURE}")
    _check_length(index.duration_s, what, limits)
    _check_count(sampling, index.duration_s, what, limits)
    with _opened(content, what, limits, missing) as container:
        stream = _picture_streams(container, what)[choice]
        track = containers.about_track(stream, container.streams.video)
        lost = []
        if missing:
            claimed_s = containers.claimed_duration_s(container, stream.index)
            whole = "an unknown length" if claimed_s is None else f"{claimed_s:.1f} s"
            there = f"{index.duration_s:.1f} s of {whole} are there"
            if claimed_s is None or index.duration_s < _ENOUGH * claimed_s:
                raise MediaCorrupt(f"{what} is cut short: {missing.text}, only {there}; {_CURE}")
            lost.append(f"{missing.text}; {there}")
        elif index.is_damaged:
            lost.append(f"the file is damaged; {index.duration_s:.1f} s of it can be read")
        if (count := len(parts_of(content))) > 1:
            lost.append(f"the file consists of {count} concatenated videos; only the first was read")
        wanted = index.at(sampling.moments(index.duration_s))
        _check_work(index, wanted, stream, what)
        video = _frames(container, stream, what, limits, index, wanted)
    if len(video.frame_times_s) < len(wanted):
        undecodable = len(wanted) - len(video.frame_times_s)
        lost.append(f"{undecodable} of {len(wanted)} frames are damaged and do not decode")
    if lost:
        log.warning("video_read_in_part", video=what, missing=lost)
    return replace(video, truncated="; ".join(lost) or None, track=track)


def _decode_in_child(content: bytes, what: str, limits: MediaSettings, sampling: Sampling) -> Video:
    """Return what `decode_file` does, from a child process: a file of some kilobytes can ask for minutes of work."""
    arguments = {"what": what, "limits": limits.model_dump(mode="json"), "sampling": asdict(sampling)}
    function = "handlers.decoding.children.video:video"
    try:
        with closing(processes.pictures.call(function, content, arguments, limits.children)) as found:
            [(about, block)] = found
    except ChildEnded as ended:
        raise ended.refusal(what, limits.children, cure=_CURE_OF_A_CHILD) from ended
    return Video(np.frombuffer(block, np.uint8).reshape(about.pop("shape")), **about)


def _opened(content: bytes, what: str, limits: MediaSettings, missing: MissingEnd | None) -> Any:
    cut = f"cut short: {missing.text}; {_CURE}" if missing else ""
    return containers.opened(
        content,
        what,
        formats=_FORMATS,
        max_pixels=limits.max_image_pixels,
        refusal=refusal(content, wanted=("video",), cure=_CURE, cut=cut),
        cure=_CURE,
    )


def _first_that_moves(
    content: bytes, what: str, limits: MediaSettings, missing: MissingEnd | None
) -> tuple[int, FrameIndex]:
    """Return the place among `_picture_streams` of one with several frames: others may be covers not marked as such."""
    found: list[FrameIndex] = []
    for choice in range(_MOST_TRACKS):
        with _opened(content, what, limits, missing) as container:
            streams = _picture_streams(container, what)
            stream = streams[choice]
            check_size(what, stream.width, stream.height, limits.max_image_pixels, has="has frames of")
            claimed_s = containers.claimed_duration_s(container, stream.index)
            if claimed_s is not None:
                _check_length(claimed_s, what, limits)
            found.append(index_frames(container, stream))
        if len(found[-1].shown) > 1 or choice + 1 == len(streams):
            break
    return max(enumerate(found), key=lambda one: len(one[1].shown))


def _picture_streams(container: InputContainer, what: str) -> list[VideoStream]:
    """Return the decodable streams of moving pictures, the preferred one first."""
    from av.stream import Disposition

    sized = filter(containers.is_known, container.streams.video)
    known = containers.by_preference(sorted(sized, key=lambda one: -one.width * one.height))
    moving = [stream for stream in known if not stream.disposition & Disposition.attached_pic]
    if not moving:
        kinds = "a cover picture" if known else containers.kinds(container)
        elsewhere = f"{TAKEN_BY['sound']}, or " if container.streams.audio else ""
        raise MediaCorrupt(f"{what} holds no video, only {kinds}; {elsewhere}{_CURE}")
    # An animated AVIF has its first picture in a separate stream.
    return sorted(moving, key=lambda stream: stream.frames == 1)


def _frames(
    container: InputContainer,
    stream: VideoStream,
    what: str,
    limits: MediaSettings,
    index: FrameIndex,
    wanted: list[int],
) -> Video:
    from av.video.reformatter import VideoReformatter

    stream.codec_context.options = {"max_pixels": str(limits.max_image_pixels)}
    # Videos are decoded side by side already. A frame that converts itself sets up another scaler with its threads.
    stream.codec_context.thread_count = 1
    to_rgb = VideoReformatter()
    frames: Frames | None = None
    times: list[float] = []
    turn: Callable[[Frames], Frames] | None = None
    for time, frame in decode_frames(container, stream, index, wanted):
        if not times:
            width, height = _fitting(frame.width, frame.height, len(wanted), limits.max_image_pixels)
            turn = upright(frame)
        plain: Any = to_rgb.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
        picture = turn(plain) if turn else plain
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
    return Video(frames, [times[place] for place in order], round(index.duration_s, 6))


def upright(frame: VideoFrame) -> Callable[[Frames], Frames] | None:
    """Return the operation that turns a frame as its display matrix says, None for none.

    Source: ISO/IEC 14496-12 section 6.2.2: x' = a x + c y, y' = b x + d y, with y growing downwards.
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    swaps = abs(b) > abs(a)
    flip_x, flip_y = (c < 0, b < 0) if swaps else (a < 0, d < 0)

    def turn(picture: Frames) -> Frames:
        turned = picture.transpose(1, 0, 2) if swaps else picture
        return turned[:: -1 if flip_y else 1, :: -1 if flip_x else 1]

    return turn if swaps or flip_x or flip_y else None


def _fitting(width: int, height: int, count: int, max_pixels: int) -> tuple[int, int]:
    """Return the size at which `count` frames together have at most `max_pixels`."""
    scale = min(1.0, math.sqrt(max_pixels / (width * height * count)))
    return max(1, int(width * scale)), max(1, int(height * scale))


def _from_array(
    array: NDArray[Any], field: str, limits: MediaSettings, frame_rate: Any, sampling: Sampling | None
) -> Video:
    rate = 25.0 if frame_rate is None else frame_rate
    low, high = _RATES
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not low <= rate <= high:
        raise InvalidInput(f"data.frame_rate is {shown(rate)}; it must be a number from {low} to {high:g} Hz")
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
        raise InvalidInput(
            f"{field} is an array of {array.dtype} of shape {array.shape}; it must be uint8 of shape "
            "(frames, height, width, 3)"
        )
    if not array.size:
        raise MediaCorrupt(f"{field} has shape {array.shape}: it holds no pictures; send some frames")
    check_size(field, array.shape[2], array.shape[1], limits.max_image_pixels, has="has frames of")
    count, duration_s = len(array), len(array) / rate
    taken = list(range(count))
    if sampling is not None:
        _check_count(sampling, duration_s, field, limits)
        taken = sorted({min(count - 1, int(moment * rate + 1e-6)) for moment in sampling.moments(duration_s)})
    elif count > limits.max_frames:
        raise MediaTooLarge(
            f"{field} has {count} frames; media.max_frames allows {limits.max_frames}: set options.num_frames"
        )
    frames = array if len(taken) == count else array[taken]
    return Video(frames, [round(index / rate, 6) for index in taken], round(duration_s, 6))


def _check_work(index: FrameIndex, wanted: list[int], stream: VideoStream, what: str) -> None:
    """Refuse a video that would take many minutes: each frame depends on all before it."""
    count = sum(last - first + 1 for first, last in index.packets_for(wanted))
    if count * stream.width * stream.height > _MOST_PIXELS_DECODED:
        raise MediaTooLarge(
            f"{what} takes decoding of {count} frames of {stream.width} x {stream.height} pixels to get at "
            f"{len(wanted)} of them; send it scaled down, in parts, or encoded with more key frames"
        )


def _check_length(duration_s: float, what: str, limits: MediaSettings) -> None:
    if duration_s > limits.max_video_s:
        raise MediaTooLarge(
            f"{what} is {duration_s:.0f} s long; media.max_video_s allows {limits.max_video_s:g} s: "
            "send it in parts"
        )


def _check_count(sampling: Sampling, duration_s: float, what: str, limits: MediaSettings) -> None:
    count = sampling.count(duration_s)
    if count > limits.max_frames:
        raise InvalidOption(
            f"{what} would give {count} frames; media.max_frames allows {limits.max_frames}: lower "
            "options.num_frames, or raise options.every_s"
        )
