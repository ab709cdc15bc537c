"""Decodes some frames of videos of any common format, upright, with their times."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.decoding.children import processes
from handlers.decoding.children.processes import ChildEnded
from handlers.decoding.pixel_limits import check_size
from handlers.errors import InvalidInput, InvalidOption, MediaCorrupt, MediaTooLarge
from handlers.logger import get_logger
from handlers.media import encoded_file
from handlers.options.spec import shown
from handlers.settings import MediaSettings

log = get_logger(__name__)

Frames = NDArray[np.uint8]

DEFAULT_FRAMES = 16

_CURE = "send it shorter, smaller, or encoded again (mp4) with more key frames"
_RATES = (0.001, 1000.0)


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

    def moments(self, duration_s: float, what: str, max_frames: int) -> list[float]:
        """Return the times of the frames to take of a video of that length, in seconds, at least one.

        Raises:
            InvalidOption: permanent; more than `max_frames`.
        """
        count = self.num_frames if self.every_s is None else max(1, math.ceil(duration_s / self.every_s))
        if count > max_frames:
            raise InvalidOption(
                f"{what} would give {count} frames; media.max_frames allows {max_frames}: lower "
                "options.num_frames, or raise options.every_s"
            )
        if self.every_s is None:
            return [(index + 0.5) * duration_s / count for index in range(count)]
        return [index * self.every_s for index in range(count)]


def read_video(
    value: Any,
    *,
    field: str,
    limits: MediaSettings,
    num_frames: int | None = None,
    every_s: float | None = None,
    frame_rate: Any = None,
) -> Video:
    """Return `num_frames` (default 16) frames of the video in `value`, or one for each `every_s` seconds.

    `value` is a Media or bytes (an encoded file; animated GIFs too), or a numpy array (n, height, width, 3) of
    uint8 RGB, shown at `frame_rate` (Hz, default 25); of an array all frames are taken unless a number is
    asked for. A video of fewer frames gives all it has, each once. Frames that together have more than
    `limits.max_image_pixels` come scaled down. Of a file without its end, what is left is used if it is at
    least half. Files are decoded in a child process, and refused beyond its limits.

    Raises:
        InvalidInput: permanent; no video at all, or an array of the wrong kind.
        MediaCorrupt: permanent; bytes that are empty, no video, without pictures, or too damaged.
        InvalidOption: permanent; asks for more frames than `limits` allow.
        MediaTooLarge: permanent; longer, with larger or with more frames than `limits` allow; before decoding.
    """
    sampling = Sampling(num_frames or min(DEFAULT_FRAMES, limits.max_frames), every_s)
    if file := encoded_file(value, field, besides=np.ndarray):
        return _decoded(*file, limits, sampling)
    everything = num_frames is None and every_s is None
    return _from_array(value, field, limits, frame_rate, None if everything else sampling)


def _decoded(content: bytes, what: str, limits: MediaSettings, sampling: Sampling) -> Video:
    arguments = {"what": what, "limits": limits.model_dump(mode="json"), "sampling": asdict(sampling)}
    function = "handlers.decoding.children.video:read_frames"
    try:
        with closing(processes.pictures.call(function, content, arguments, limits.children)) as found:
            [(about, block)] = found
    except ChildEnded as ended:
        raise ended.refusal(what, limits.children, cure=_CURE) from ended
    video = Video(np.frombuffer(block, np.uint8).reshape(about.pop("shape")), **about)
    if video.truncated:
        log.warning("video_read_in_part", video=what, missing=video.truncated)
    return video


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
        moments = sampling.moments(duration_s, field, limits.max_frames)
        taken = sorted({min(count - 1, int(moment * rate + 1e-6)) for moment in moments})
    elif count > limits.max_frames:
        raise MediaTooLarge(
            f"{field} has {count} frames; media.max_frames allows {limits.max_frames}: set options.num_frames"
        )
    frames = array if len(taken) == count else array[taken]
    return Video(frames, [round(index / rate, 6) for index in taken], round(duration_s, 6))
