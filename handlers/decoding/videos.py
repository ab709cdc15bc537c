"""Videos, decoded in child processes: a file of some kilobytes can ask for minutes of work, or crash its decoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from handlers.decoding import processes
from handlers.decoding.processes import ChildEnded
from handlers.decoding.refusals import refusal

if TYPE_CHECKING:
    from handlers.settings import MediaSettings
    from handlers.video import Video

_CURE = "send it shorter, smaller, or encoded anew (mp4) with more key frames"


def decode_in_child(
    content: bytes, what: str, limits: MediaSettings, *, num_frames: int | None, every_s: float | None
) -> Video:
    """Return what `handlers.video.decode_file` does, from a child process."""
    import numpy as np

    from handlers.video import Video

    arguments = {
        "what": what,
        "limits": limits.model_dump(mode="json"),
        "num_frames": num_frames,
        "every_s": every_s,
    }
    try:
        with closing(
            processes.pictures.call(f"{__name__}:decode", content, arguments, limits.children)
        ) as found:
            [(about, block)] = found
    except ChildEnded as ended:
        raise refusal(ended, what, limits.children, cure=_CURE) from ended
    return Video(np.frombuffer(block, np.uint8).reshape(about.pop("shape")), **about)


def decode(
    content: bytes, *, what: str, limits: dict[str, Any], num_frames: int | None, every_s: float | None
) -> Iterator[tuple[dict[str, Any], memoryview]]:
    """Yield the fields of a `handlers.video.Video` with the bytes of its frames; runs in a child."""
    import numpy as np

    from handlers.settings import MediaSettings
    from handlers.video import decode_file

    its = MediaSettings.model_validate(limits)
    video = decode_file(content, what, its, num_frames=num_frames, every_s=every_s)
    frames = np.ascontiguousarray(video.frames)
    about = {
        "shape": frames.shape,
        "frame_times_s": video.frame_times_s,
        "duration_s": video.duration_s,
        "truncated": video.truncated,
    }
    yield about, frames.data.cast("B")
