"""Videos that mean harm: decoded in a child process and refused beyond its limits; others come through as they are."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from handlers.decoding.children.video import read_frames
from handlers.decoding.video import Video, read_video
from handlers.errors import MediaCorrupt, MediaTooLarge
from handlers.media import Media
from handlers.settings import MediaSettings
from handlers.video_analysis import VideoAnalysisHandler

pytestmark = pytest.mark.processes

TOLD = ("frame_times_s", "duration_s", "truncated", "track")


def encoded(frames: int, width: int = 64, height: int = 48) -> bytes:
    """Return a video of grey frames, each of which depends on all before it."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"g": "600", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            picture = np.full((height, width, 3), number % 200, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))
    return file.getvalue()


def read(content: bytes, *, limits: MediaSettings | None = None, **more: int) -> Video:
    return read_video(
        Media(content, "s3://b/v.mp4"),
        field="data.video",
        limits=limits or MediaSettings(),
        num_frames=more.get("num_frames"),
    )


def test_a_video_from_a_child_is_the_one_decoded_here() -> None:
    content, limits = encoded(40), MediaSettings().model_dump(mode="json")
    [(about, block)] = read_frames(content, what="it", limits=limits, sampling={"num_frames": 5})
    video = read(content, num_frames=5)
    assert video.frames.tobytes() == block
    assert video.frames.flags.writeable
    assert about == {"shape": video.frames.shape, **{name: getattr(video, name) for name in TOLD}}


def test_the_handler_decodes_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.decoding.children.video.read_frames", None)
    inputs = VideoAnalysisHandler().preprocess({"video": Media(encoded(10), "s3://b/v.mp4")}, {})
    assert inputs["frames"].shape == (10, 48, 64, 3)


def test_a_video_that_takes_too_long_is_refused_with_the_limit() -> None:
    with pytest.raises(
        MediaTooLarge,
        match=r"^data\.video \(s3://b/v\.mp4\) takes longer to decode than media\.decode_timeout_s allows "
        r"\(0\.001 s\): send it shorter, smaller, or encoded again \(mp4\) with more key frames$",
    ):
        read(encoded(600, 640, 480), limits=MediaSettings(decode_timeout_s=0.001))


@pytest.mark.parametrize("memory_bytes", [128 << 20, 200 << 20])
def test_a_video_that_takes_too_much_memory_is_refused_with_the_limit(memory_bytes: int) -> None:
    """Not as damaged, wherever FFmpeg runs out of it."""
    with pytest.raises(MediaTooLarge, match=r"takes more memory to decode than media\.decode_memory_bytes allows"):
        read(encoded(2, 6000, 6000), limits=MediaSettings(decode_memory_bytes=memory_bytes))


def test_a_refusal_comes_through_as_it_is() -> None:
    with pytest.raises(MediaCorrupt, match=r"^data\.video \(s3://b/v\.mp4\) is a plain text, not a video"):
        read(b"nothing at all")
    with pytest.raises(MediaTooLarge, match=r"media\.max_video_s allows 0\.5 s"):
        read(encoded(40), limits=MediaSettings(max_video_s=0.5))


def test_a_video_of_an_extreme_shape_is_refused() -> None:
    with pytest.raises(MediaTooLarge, match=r"one side may be at most 200 times the other"):
        read(encoded(2, width=4096, height=16))
