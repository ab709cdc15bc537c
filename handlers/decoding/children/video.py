"""Videos decoded in a child process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av  # noqa: F401 - what is imported before the call does not count as its memory
import numpy as np

from handlers.decoding.video import Sampling, decode_file
from handlers.settings import MediaSettings


def video(
    content: bytes, *, what: str, limits: dict[str, Any], sampling: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], memoryview]]:
    """Yield the fields of a `handlers.decoding.video.Video` with the bytes of its frames."""
    found = decode_file(content, what, MediaSettings.model_validate(limits), Sampling(**sampling))
    frames = np.ascontiguousarray(found.frames)
    about = {
        "shape": frames.shape,
        "frame_times_s": found.frame_times_s,
        "duration_s": found.duration_s,
        "truncated": found.truncated,
        "track": found.track,
    }
    yield about, frames.data.cast("B")
