"""Videos of every container and frame rate, turned, cut short, damaged: which frames come, and when they are shown."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from handlers.decoding.children.video import read_frames
from handlers.decoding.children.video_frames import FrameIndex, index_frames
from handlers.decoding.video import Video, read_video
from handlers.errors import InvalidInput, InvalidOption, MediaCorrupt, MediaTooLarge
from handlers.media import Media
from handlers.settings import MediaSettings
from tests.containers import encoded_video, with_display_matrix

CODECS: list[tuple[str, str, dict[str, str]]] = [
    ("mp4", "libx264", {}),
    ("mp4", "libx264", {"g": "12", "bf": "3"}),
    ("mp4", "libx264", {"x264-params": "open-gop=1:keyint=10:bframes=3"}),
    ("matroska", "libx264", {"g": "12"}),
    ("mov", "libx265", {"x265-params": "log-level=none:keyint=12"}),
    ("webm", "libvpx-vp9", {"deadline": "realtime", "g": "12"}),
    ("mpegts", "libx264", {"g": "12"}),
    ("flv", "libx264", {"g": "12"}),
    ("avi", "libx264", {"g": "12"}),
    ("avi", "mpeg4", {"g": "12"}),
    ("gif", "gif", {}),
]
EVERY_CODEC = pytest.mark.parametrize(("container", "codec", "options"), CODECS)


def fading(count: int = 60, *, height: int = 48, width: int = 64) -> Any:
    """Return frames that all differ, of four corners of different colors."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[: height // 2, : width // 2] = (250, 20, 20)
        frame[: height // 2, width // 2 :] = (20, 250, 20)
        frame[height // 2 :, : width // 2] = (20, 20, 250)
        frame[height // 2 :, width // 2 :] = index * 4
    return frames


def noisy(count: int = 60) -> Any:
    """Return frames that do not compress, so that a part of the file is as large a part of the video."""
    return np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), np.uint8)


def read(value: Any, *, limits: MediaSettings | None = None, **more: Any) -> Video:
    if isinstance(value, bytes):
        value = Media(value, "s3://clips/a")
    return read_video(value, field="data.video", limits=limits or MediaSettings(), **more)


def all_frames(content: bytes) -> list[Any]:
    """Return every frame as FFmpeg decodes them, from the first to the last."""
    with av.open(io.BytesIO(content), mode="r") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def index_of(content: bytes) -> FrameIndex:
    with av.open(io.BytesIO(content), mode="r") as container:
        return index_frames(container, container.streams.video[0])


def corners(picture: Any) -> list[str]:
    """Return the colors of the upper left, upper right and lower left corner."""
    names = ("red", "green", "blue")
    return [names[int(picture[y, x].argmax())] for y, x in ((4, 4), (4, -4), (-4, 4))]


@EVERY_CODEC
def test_frames_are_exactly_those_of_decoding_everything(container: str, codec: str, options: dict[str, str]) -> None:
    content = encoded_video(fading(), container=container, codec=codec, options=options)
    everything = all_frames(content)
    assert len(everything) == 60
    for num_frames in (1, 4, 16, 60):
        video = read(content, num_frames=num_frames)
        wanted = [int((index + 0.5) * 60 / num_frames) for index in range(num_frames)]
        assert video.frame_times_s == pytest.approx([index / 10 for index in wanted], abs=0.002)
        assert video.duration_s == pytest.approx(6.0, abs=0.002)
        for frame, index in zip(video.frames, wanted, strict=True):
            assert np.array_equal(frame, everything[index]), index


@EVERY_CODEC
def test_one_frame_for_each_so_many_seconds(container: str, codec: str, options: dict[str, str]) -> None:
    content = encoded_video(fading(), container=container, codec=codec, options=options)
    everything = all_frames(content)
    video = read(content, every_s=2.5)
    assert video.frame_times_s == pytest.approx([0.0, 2.5, 5.0], abs=0.002)
    assert all(np.array_equal(frame, everything[index]) for frame, index in zip(video.frames, (0, 25, 50), strict=True))


def test_sixteen_frames_come_by_default_as_contiguous_uint8() -> None:
    video = read(encoded_video(fading()))
    assert video.frames.shape == (16, 48, 64, 3)
    assert video.frames.dtype == np.uint8
    assert video.frames.flags.c_contiguous
    assert len(video.frame_times_s) == 16


def test_a_video_of_few_frames_gives_each_once() -> None:
    video = read(encoded_video(fading(3)), num_frames=16)
    assert video.frame_times_s == pytest.approx([0.0, 0.1, 0.2])
    assert len(video.frames) == 3


def test_a_video_of_one_frame_is_a_video() -> None:
    video = read(encoded_video(fading(1)))
    assert video.frame_times_s == [0.0]
    assert video.duration_s > 0


def test_frames_are_those_seen_at_the_time_where_the_rate_varies() -> None:
    # Ten frames in the first second, then one that stays for nine.
    times = [*range(0, 1000, 100), 1000, 10_000]
    content = encoded_video(fading(12), container="matroska", times_ms=times)
    everything = all_frames(content)
    video = read(content, every_s=2.0)
    assert video.frame_times_s == pytest.approx([0.0, 1.0, 10.0])
    assert [
        next(index for index, one in enumerate(everything) if np.array_equal(one, frame)) for frame in video.frames
    ] == [0, 10, 11]


def test_a_video_that_starts_late_counts_from_its_first_frame() -> None:
    content = encoded_video(fading(10), container="matroska", times_ms=range(5000, 6000, 100))
    assert read(content, num_frames=2).frame_times_s == pytest.approx([0.2, 0.7])


def test_only_packets_that_wanted_frames_depend_on_are_decoded() -> None:
    index = index_of(encoded_video(fading(), options={"g": "10", "keyint_min": "10", "bf": "0", "sc_threshold": "0"}))
    assert index.starts == (0, 10, 20, 30, 40, 50)
    wanted = index.at([1.25, 4.1, 4.55])
    assert [index.seconds(time) for time in wanted] == pytest.approx([1.2, 4.1, 4.5])
    assert index.packets_for(wanted) == [(10, 12), (40, 45)]


def test_a_frame_shown_before_its_start_needs_what_came_before_it() -> None:
    # Packet 3 starts anew, packet 4 is shown before it and leans on both sides.
    index = FrameIndex((0, 2, 1, 5, 4), (0, 3), (0, 1, 2, 4, 5), 6, Fraction(1, 10), is_dated=True)
    assert index.packets_for([5]) == [(3, 3)]
    assert index.packets_for([4]) == [(0, 4)]
    assert index.packets_for([1, 5]) == [(0, 3)]


@pytest.mark.parametrize(
    ("matrix", "seen"),
    [
        ((1, 0, 0, 1), ["red", "green", "blue"]),
        ((0, 1, -1, 0), ["blue", "red", None]),
        ((-1, 0, 0, -1), [None, "blue", "green"]),
        ((0, -1, 1, 0), ["green", None, "red"]),
        ((-1, 0, 0, 1), ["green", "red", None]),
        ((1, 0, 0, -1), ["blue", None, "red"]),
        ((0, 1, 1, 0), ["red", "blue", "green"]),
    ],
)
def test_frames_are_turned_and_mirrored_as_the_metadata_says(
    matrix: tuple[int, int, int, int], seen: list[str | None]
) -> None:
    content = with_display_matrix(encoded_video(fading(4, height=48, width=80)), *matrix)
    [frame] = read(content, num_frames=1).frames
    assert frame.shape == ((80, 48, 3) if matrix[0] == 0 else (48, 80, 3))
    for found, expected in zip(corners(frame), seen, strict=True):
        assert expected is None or found == expected


def test_a_video_over_the_limit_in_time_is_refused() -> None:
    with pytest.raises(MediaTooLarge, match=r"is 6 s long; media\.max_video_s allows 5 s"):
        read(encoded_video(fading()), limits=MediaSettings(max_video_s=5))
    with pytest.raises(MediaTooLarge, match=r"is 6 s long; media\.max_video_s allows 5 s"):
        read(encoded_video(fading(), container="mpegts"), limits=MediaSettings(max_video_s=5))


def test_frames_over_the_limit_in_pixels_are_refused_before_decoding() -> None:
    with pytest.raises(MediaTooLarge, match=r"64 x 48 = 3072 pixels; media\.max_image_pixels allows 3000"):
        read(encoded_video(fading()), limits=MediaSettings(max_image_pixels=3000))


def test_frames_that_take_too_much_decoding_are_refused_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded_video(fading(), options={"g": "1000", "sc_threshold": "0"})
    monkeypatch.setattr("handlers.decoding.children.video._MOST_PIXELS_DECODED", 20 * 64 * 48)
    limits = MediaSettings().model_dump(mode="json")
    [(about, _)] = read_frames(content, what="it", limits=limits, sampling={"every_s": 60})
    assert about["shape"] == (1, 48, 64, 3)
    with pytest.raises(MediaTooLarge, match=r"takes decoding of \d\d frames of 64 x 48 pixels to get at 1 of them"):
        list(read_frames(content, what="it", limits=limits, sampling={"num_frames": 1}))


def test_more_frames_than_the_limit_are_refused_with_the_way_out() -> None:
    content = encoded_video(fading())
    with pytest.raises(InvalidOption, match=r"would give 60 frames; media\.max_frames allows 20: .*raise options"):
        read(content, every_s=0.1, limits=MediaSettings(max_frames=20))
    with pytest.raises(InvalidOption, match=r"would give 9 frames; media\.max_frames allows 8"):
        read(content, num_frames=9, limits=MediaSettings(max_frames=8))
    assert len(read(content, limits=MediaSettings(max_frames=8)).frames) == 8


def test_frames_that_are_too_many_pixels_together_come_smaller() -> None:
    video = read(encoded_video(fading()), num_frames=16, limits=MediaSettings(max_image_pixels=12_288))
    assert video.frames.shape == (16, 24, 32, 3)
    assert corners(video.frames[0]) == ["red", "green", "blue"]


def test_an_array_is_taken_as_it_is() -> None:
    frames = fading(30)
    video = read(frames)
    assert video.frames is frames
    assert video.frame_times_s == pytest.approx([index / 25 for index in range(30)])
    assert read(frames, frame_rate=10).duration_s == 3.0


def test_frames_of_an_array_are_picked_where_a_number_is_asked_for() -> None:
    frames = fading(30)
    video = read(frames, num_frames=3, frame_rate=10)
    assert video.frame_times_s == [0.5, 1.5, 2.5]
    assert np.array_equal(video.frames, frames[[5, 15, 25]])
    assert read(frames, every_s=1.0, frame_rate=10).frame_times_s == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            np.zeros((4, 8, 8), np.uint8),
            "uint8 of shape (4, 8, 8); it must be uint8 of shape (frames, height, width, 3)",
        ),
        (np.zeros((4, 8, 8, 3), np.float32), "is an array of float32"),
        ("s3://clips/a.mp4", 'is "s3://clips/a.mp4", which was not fetched'),
        ([b"a", b"b"], "is a list of 2; it must be one address, bytes or a numpy array"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_what_it_must_be(value: Any, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(value)
    assert told in caught.value.message


@pytest.mark.parametrize("rate", [0, -1, "25", True, 1e6])
def test_a_bad_frame_rate_is_refused(rate: Any) -> None:
    with pytest.raises(InvalidInput, match=r"data\.frame_rate is .*; it must be a number from 0\.001 to 1000 Hz"):
        read(fading(4), frame_rate=rate)


def test_arrays_keep_to_the_limits() -> None:
    with pytest.raises(MediaTooLarge, match=r"media\.max_frames allows 2"):
        read(fading(4), limits=MediaSettings(max_frames=2))
    with pytest.raises(MediaTooLarge, match=r"media\.max_image_pixels"):
        read(fading(4), limits=MediaSettings(max_image_pixels=100))
    with pytest.raises(MediaCorrupt, match="holds no pictures"):
        read(np.zeros((0, 8, 8, 3), np.uint8))


def test_all_pictures_of_an_animated_avif_are_seen() -> None:
    file = io.BytesIO()
    first, *others = [Image.fromarray(picture) for picture in fading(8)]
    first.save(file, "AVIF", save_all=True, append_images=others, duration=100)
    assert len(read(file.getvalue(), num_frames=4).frames) == 4
