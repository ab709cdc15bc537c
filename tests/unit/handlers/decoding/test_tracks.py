"""Files of several tracks: which sound and which video is taken, and that the result says which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from av.stream import Disposition

from handlers.decoding.audio import read_sound
from handlers.decoding.video import read_video
from handlers.errors import MediaCorrupt
from handlers.media import Media
from handlers.recording import AsrHandler
from handlers.settings import MediaSettings
from handlers.video_analysis import VideoAnalysisHandler
from tests.containers import Track, encoded_tracks

LOW, HIGH = 400, 900


def tone(hertz: int, seconds: float = 1.0) -> Any:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(48_000 * seconds)) / 48_000)).astype(np.float32)


def heard(content: bytes) -> tuple[float, dict[str, Any] | None]:
    """Return the loudest frequency to a hundred hertz, 0 of silence, and which track it was."""
    sound = read_sound(content, field="data.audio", max_s=60)
    spectrum = np.abs(np.fft.rfft(sound.samples))
    return round(int(spectrum.argmax()) * 16_000 / len(sound.samples), -2), sound.track


@pytest.mark.parametrize("container", ["matroska", "mp4"])
@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        (Disposition(0), Disposition(0), 1),
        (Disposition(0), Disposition.default, 2),
        (Disposition.default | Disposition.comment, Disposition(0), 2),
        (Disposition.default | Disposition.visual_impaired, Disposition(0), 2),
        (Disposition.default, Disposition.comment, 1),
    ],
)
def test_the_track_that_players_take_is_heard_and_no_commentary(
    container: str, first: Disposition, second: Disposition, taken: int
) -> None:
    content = encoded_tracks(Track(tone(LOW), flags=first), Track(tone(HIGH), flags=second), container=container)
    assert heard(content) == ((LOW, HIGH)[taken - 1], {"number": taken, "of": 2})


@pytest.mark.parametrize(
    ("container", "codec"), [("matroska", "aac"), ("mp4", "aac"), ("mpegts", "aac"), ("ogg", "flac")]
)
def test_a_silent_track_is_left_for_the_next_that_is_heard(container: str, codec: str) -> None:
    silent = Track(0 * tone(LOW), codec, Disposition.default)
    content = encoded_tracks(silent, silent, Track(tone(HIGH), codec), container=container)
    assert heard(content) == (HIGH, {"number": 3, "of": 3})


def test_of_silent_tracks_the_first_is_taken() -> None:
    content = encoded_tracks(Track(0 * tone(LOW, 1)), Track(0 * tone(LOW, 2)))
    sound = read_sound(content, field="data.audio", max_s=60)
    assert sound.track == {"number": 1, "of": 2}
    assert len(sound.samples) < 20_000


def test_a_track_is_called_by_its_language_and_title() -> None:
    main = Track(tone(HIGH), flags=Disposition.default, metadata={"language": "fra", "title": "Version longue"})
    inputs = AsrHandler().preprocess({"audio": Media(encoded_tracks(Track(tone(LOW)), main), "a")}, {})
    assert inputs["track"] == {"number": 2, "of": 2, "language": "fra", "title": "Version longue"}


def test_of_one_track_nothing_is_said() -> None:
    inputs = AsrHandler().preprocess({"audio": Media(encoded_tracks(Track(tone(LOW))), "a")}, {})
    assert not {"track", "truncated"} & inputs.keys()


def frames(count: int, grey: int, side: int = 64) -> Any:
    return np.full((count, side, side, 3), grey, np.uint8)


@pytest.mark.parametrize("codec", ["mjpeg", "libx264"])
def test_a_large_cover_before_the_video_is_not_taken_for_it(codec: str) -> None:
    content = encoded_tracks(Track(frames(1, 250, 256), codec), Track(frames(20, 90), "libx264"))
    inputs = VideoAnalysisHandler().preprocess({"video": content}, {"num_frames": 4})
    assert inputs["frames"].shape == (4, 64, 64, 3)
    assert abs(int(inputs["frames"].mean()) - 90) < 10
    assert inputs["track"] == {"number": 2, "of": 2}


def test_the_video_that_players_take_is_looked_at() -> None:
    content = encoded_tracks(
        Track(frames(5, 250, 128), "libx264"), Track(frames(5, 90), "libx264", Disposition.default)
    )
    video = read_video(content, field="data.video", limits=MediaSettings())
    assert video.track == {"number": 2, "of": 2}
    assert abs(int(video.frames.mean()) - 90) < 10


def test_a_video_that_no_decoder_knows_is_left_for_one_that_one_knows() -> None:
    known, unknown = Track(frames(5, 90), "libx264"), Track(frames(5, 250), "mpeg4")
    content = encoded_tracks(unknown, known).replace(b"V_MPEG4/ISO/ASP", b"V_XPEG4/ISO/ASP")
    video = read_video(content, field="data.video", limits=MediaSettings())
    assert abs(int(video.frames.mean()) - 90) < 10
    with pytest.raises(MediaCorrupt, match="holds no video, only video of an unknown codec"):
        read_video(content.replace(b"V_MPEG4/ISO/AVC", b"V_XPEG4/ISO/AVC"), field="v", limits=MediaSettings())
