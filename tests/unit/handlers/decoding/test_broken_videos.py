"""Videos cut short, damaged or followed by other bytes, and files that are not videos."""

from __future__ import annotations

import io
import re
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from handlers.errors import MediaCorrupt
from tests.containers import encoded_sound, encoded_video
from tests.unit.handlers.decoding.test_video import (
    all_frames,
    fading,
    noisy,
    read,
)

pytestmark = pytest.mark.processes


def test_what_is_left_of_a_video_without_its_end_is_used() -> None:
    content = encoded_video(noisy(), index_first=True)
    with capture_logs() as lines:
        video = read(content[: int(len(content) * 0.7)], num_frames=4)
    assert [(line["event"], line["missing"]) for line in lines] == [("video_read_in_part", video.truncated)]
    assert video.duration_s == pytest.approx(0.7 * 6, abs=0.5)
    assert re.search(r"its header promises \d+ bytes and \d+ came; 4\.\d s of 6\.0 s are there", video.truncated or "")
    assert len(video.frames) == 4
    assert video.frame_times_s == pytest.approx([(index + 0.5) * video.duration_s / 4 for index in range(4)], abs=0.1)


def test_what_is_missing_of_an_ogg_video_is_told() -> None:
    content = encoded_video(noisy(), container="ogg", codec="libvpx")
    assert read(content).truncated is None
    told = read(content[: int(len(content) * 0.7)]).truncated or ""
    assert re.fullmatch(r"its last page promises \d+ bytes and \d+ came; 4\.\d s of an unknown length are there", told)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("webm", "libvpx-vp9")])
def test_a_video_of_which_less_than_half_is_left_is_cut_short(container: str, codec: str) -> None:
    content = encoded_video(noisy(), container=container, codec=codec, index_first=container == "mp4")
    with pytest.raises(MediaCorrupt, match=r"is cut short: its header .* came, only .* s of 6\.0 s are there"):
        read(content[: int(len(content) * 0.3)])


def test_a_whole_video_is_not_truncated() -> None:
    assert read(encoded_video(fading(10))).truncated is None


def test_bytes_behind_a_video_that_are_no_part_of_it_are_no_loss() -> None:
    assert read(encoded_video(fading(10)) + b"PK\3\4" + bytes(100)).truncated is None


def test_of_videos_one_behind_the_other_the_first_is_read_and_the_rest_is_told() -> None:
    one = encoded_video(fading(10))
    video = read(one + one)
    assert len(video.frames) == 10
    assert video.truncated == "the file consists of 2 concatenated videos; only the first was read"


@pytest.mark.parametrize(
    ("container", "codec"),
    [("matroska", "libx264"), ("webm", "libvpx-vp9"), ("mp4", "libx264"), ("flv", "flv"), ("asf", "wmv2")],
)
def test_of_joined_videos_it_is_the_first_that_is_read(container: str, codec: str) -> None:
    dark, bright = (
        encoded_video(np.full((20, 48, 64, 3), grey, np.uint8), container=container, codec=codec) for grey in (40, 200)
    )
    for content, grey in ((dark + bright, 40), (bright + dark, 200)):
        video = read(content, num_frames=4)
        assert abs(int(video.frames.mean()) - grey) < 10
        assert video.duration_s == pytest.approx(2, abs=0.1)
        assert video.truncated == "the file consists of 2 concatenated videos; only the first was read"


@pytest.mark.parametrize(("container", "codec"), [("mpegts", "libx264"), ("mpeg", "mpeg2video")])
def test_joined_transport_streams_are_one_video_of_which_all_is_read(container: str, codec: str) -> None:
    dark, bright = (
        encoded_video(np.full((50, 48, 64, 3), grey, np.uint8), container=container, codec=codec, rate=25)
        for grey in (40, 200)
    )
    alone = read(dark, num_frames=2)
    video = read(dark + bright + dark, num_frames=6)
    assert video.truncated is None
    assert video.duration_s == pytest.approx(3 * alone.duration_s, abs=0.2)
    means = [round(float(frame.mean())) for frame in video.frames]
    assert means == pytest.approx([40, 40, 200, 200, 40, 40], abs=10)


@pytest.mark.parametrize("frames", [noisy(), fading(20)])
def test_a_video_that_ends_before_its_index_is_cut_short(frames: Any) -> None:
    content = encoded_video(frames)
    with pytest.raises(MediaCorrupt) as caught:
        read(content[: len(content) // 2])
    assert "data.video (s3://clips/a) is cut short: its header promises" in caught.value.message


@pytest.mark.parametrize("container", ["mp4", "avi"])
def test_a_few_damaged_frames_are_left_out_and_many_are_an_error(container: str) -> None:
    frames = fading(16)
    content = bytearray(encoded_video(frames, container=container, codec="mjpeg"))
    everything = all_frames(bytes(content))
    with av.open(io.BytesIO(content), mode="r") as opened:
        places = [(packet.pos, packet.size) for packet in opened.demux(video=0) if packet.size]

    def damage(*which: int) -> None:
        for index in which:
            position, size = places[index]
            start = content.index(b"\xff\xd8", position)
            content[start : start + size] = bytes(size)

    damage(0, 3, 9)
    video = read(bytes(content))
    left = [index for index in range(16) if index not in (0, 3, 9)]
    assert video.frame_times_s == pytest.approx([index / 10 for index in left])
    assert video.truncated == "3 of 16 frames cannot be decoded, for damage"
    assert all(np.array_equal(frame, everything[i]) for frame, i in zip(video.frames, left, strict=True))
    damage(1, 2, 4, 5, 6, 7)
    with pytest.raises(MediaCorrupt, match="is damaged: 7 of 16 of the frames asked for can be decoded"):
        read(bytes(content))


@pytest.mark.parametrize(
    "content",
    [
        b"not a video",
        b"\0" * 5000,
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
    ],
)
def test_bytes_that_are_no_video_are_corrupt(content: bytes) -> None:
    with pytest.raises(
        MediaCorrupt,
        match=r"data\.video \(s3://clips/a\) is (no video|.*, not a video|.* that is damaged).*; .*send a whole mp4",
    ):
        read(content)


def test_an_image_is_no_video() -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "JPEG")
    with pytest.raises(MediaCorrupt, match="is a JPEG image, not a video"):
        read(file.getvalue())


def test_empty_bytes_are_corrupt() -> None:
    with pytest.raises(MediaCorrupt, match=r"is empty \(0 bytes\)"):
        read(b"")


def test_a_recording_is_no_video() -> None:
    sound = encoded_sound(np.zeros(48_000), container="ipod", codec="aac", rate=48_000)
    with pytest.raises(MediaCorrupt, match="holds no video, only audio"):
        read(sound)


def test_a_cover_picture_is_no_video() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        sounds: Any = output.add_stream("aac", rate=48_000, layout="mono")
        cover: Any = output.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        output.mux(cover.encode(av.VideoFrame.from_ndarray(fading(1)[0], format="rgb24")))
        output.mux(cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48_000
        output.mux(sounds.encode(frame))
        output.mux(sounds.encode())
    with pytest.raises(MediaCorrupt, match="holds no video, only a cover picture"):
        read(file.getvalue())


def test_a_container_with_a_video_track_of_no_frames_holds_no_pictures() -> None:
    content = encoded_video(fading(0), sound=np.zeros(48_000), container="matroska")
    with pytest.raises(MediaCorrupt, match="holds no pictures"):
        read(content)
