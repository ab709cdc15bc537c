"""The sound in m4a, webm, mp4 and other containers: the same as in a wav, and refused when damaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soundfile

from handlers.decoding.audio import SAMPLE_RATE, read_sound
from handlers.decoding.damage import missing_end
from handlers.errors import MediaCorrupt, MediaTooLarge
from handlers.media import Media
from tests.containers import encoded_sound, encoded_video
from tests.recordings import Recording
from tests.unit.handlers.decoding.test_audio import encoded, strongest_frequency, tone

CONTAINERS = pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("ipod", "aac", 44_100),
        ("mp4", "aac", 48_000),
        ("webm", "libopus", 48_000),
        ("matroska", "flac", 22_050),
        ("mov", "pcm_s16le", 44_100),
        ("caf", "alac", 48_000),
        ("adts", "aac", 16_000),
        ("mpegts", "aac", 48_000),
        ("flv", "aac", 44_100),
        ("avi", "libmp3lame", 44_100),
        ("ac3", "ac3", 48_000),
    ],
)
WITH_SIZES = pytest.mark.parametrize(
    ("container", "codec"), [("ipod", "aac"), ("webm", "libopus"), ("avi", "libmp3lame")]
)


def read(content: bytes, *, max_s: float = 60.0) -> Any:
    return read_sound(Media(content, "s3://clips/a"), field="data.audio", max_s=max_s).samples


def speech(recording: Recording) -> Any:
    return soundfile.read(recording.path, dtype="float32")[0]


@CONTAINERS
def test_every_container_keeps_pitch_loudness_and_length(container: str, codec: str, rate: int) -> None:
    content = encoded_sound(tone(440, rate=rate, seconds=2), container=container, codec=codec, rate=rate)
    samples = read(content)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(2 * SAMPLE_RATE, abs=0.15 * SAMPLE_RATE)
    assert strongest_frequency(samples) == pytest.approx(440, abs=2)
    middle = samples[SAMPLE_RATE // 2 : -SAMPLE_RATE // 2]
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize(("container", "codec"), [("ipod", "aac"), ("webm", "libopus")])
def test_speech_in_a_container_is_the_speech_of_the_wav(
    container: str, codec: str, librivox_clips: tuple[Recording, ...]
) -> None:
    samples = speech(librivox_clips[0])
    found = read(encoded_sound(samples, container=container, codec=codec, rate=SAMPLE_RATE))
    wav = read(encoded(samples))
    length = min(len(found), len(wav))
    assert length == pytest.approx(len(wav), abs=0.07 * SAMPLE_RATE)
    assert np.corrcoef(found[:length], wav[:length])[0, 1] > 0.97


def test_lossless_sound_in_a_container_is_that_of_the_wav(librivox_clips: tuple[Recording, ...]) -> None:
    samples = speech(librivox_clips[0])
    found = read(encoded_sound(samples, container="matroska", codec="flac", rate=SAMPLE_RATE))
    assert np.allclose(found, read(encoded(samples)), atol=1e-4)


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1", "7.1"])
@pytest.mark.parametrize("codec", ["flac", "pcm_s16le", "pcm_u8", "pcm_f32le", "pcm_s32le"])
def test_channels_of_any_sample_format_are_averaged(layout: str, codec: str) -> None:
    content = encoded_sound(tone(440), container="matroska", codec=codec, rate=SAMPLE_RATE, layout=layout)
    assert np.allclose(read(content), tone(440), atol=0.01)


@pytest.mark.parametrize(("layout", "codec"), [("7.1", "aac"), ("7.1", "libopus"), ("hexadecagonal", "pcm_s16le")])
def test_eight_channels_and_more_are_averaged(layout: str, codec: str) -> None:
    samples = tone(440, rate=48_000, seconds=2)
    found = read(encoded_sound(samples, container="matroska", codec=codec, rate=48_000, layout=layout))
    assert strongest_frequency(found) == pytest.approx(440, abs=2)
    assert np.abs(found[SAMPLE_RATE // 2 : -SAMPLE_RATE // 2]).max() == pytest.approx(
        0.5, rel=0.15
    )  # one channel may carry bass only


def test_the_sound_track_of_a_video_is_read() -> None:
    frames = np.zeros((20, 48, 64, 3), np.uint8)
    samples = read(encoded_video(frames, sound=tone(330, rate=48_000, seconds=2)))
    assert len(samples) == pytest.approx(2 * SAMPLE_RATE, abs=1000)
    assert strongest_frequency(samples) == pytest.approx(330, abs=2)


def test_a_video_without_sound_says_so() -> None:
    with pytest.raises(MediaCorrupt) as caught:
        read(encoded_video(np.zeros((5, 48, 64, 3), np.uint8)))
    assert caught.value.message == (
        "data.audio (s3://clips/a) holds no sound, only video; send a video as data.video to task video-analysis, "
        "or send a whole wav, flac, ogg, mp3, m4a or webm file"
    )


@WITH_SIZES
def test_a_container_that_lost_most_of_itself_is_cut_short(container: str, codec: str) -> None:
    content = encoded_sound(
        tone(440, rate=48_000, seconds=3), container=container, codec=codec, rate=48_000, index_first=True
    )
    assert missing_end(content) is None
    with pytest.raises(MediaCorrupt, match=r"data\.audio \(s3://clips/a\) is cut short: its header promises"):
        read(content[: int(len(content) * 0.3)])


@WITH_SIZES
@pytest.mark.parametrize("part", [0.7, 0.9, 0.999])
def test_of_a_container_that_lost_its_end_the_rest_is_read_and_told(container: str, codec: str, part: float) -> None:
    content = encoded_sound(
        tone(440, rate=48_000, seconds=3), container=container, codec=codec, rate=48_000, index_first=True
    )
    cut = Media(content[: int(len(content) * part)], "s3://clips/a")
    sound = read_sound(cut, field="data.audio", max_s=60.0)
    assert len(sound.samples) / SAMPLE_RATE == pytest.approx(3 * part, abs=0.4)
    assert "its header promises" in (sound.truncated or "")
    assert "s are there" in (sound.truncated or "")


def test_an_mp4_that_ends_before_its_index_is_cut_short() -> None:
    content = encoded_sound(tone(440, rate=48_000), container="ipod", codec="aac", rate=48_000)
    with pytest.raises(MediaCorrupt, match=r"its index \(moov\) did not come"):
        read(content[: content.index(b"moov") - 4])


def test_a_container_written_to_a_pipe_claims_no_size() -> None:
    content = bytearray(encoded_sound(tone(440, rate=48_000), container="webm", codec="libopus", rate=48_000))
    segment = content.index(b"\x18\x53\x80\x67") + 4
    content[segment : segment + 8] = b"\x01" + b"\xff" * 7
    assert missing_end(bytes(content)) is None
    assert len(read(bytes(content))) == pytest.approx(SAMPLE_RATE, abs=500)


def test_a_container_with_damage_in_its_middle_is_corrupt() -> None:
    content = bytearray(encoded_sound(tone(440, rate=48_000, seconds=5), container="ipod", codec="aac", rate=48_000))
    start = content.index(b"mdat") + 4
    content[start + 2000 : start + 30_000] = np.random.default_rng(0).bytes(28_000)
    with pytest.raises(MediaCorrupt, match="is damaged: it does not decode to its end"):
        read(bytes(content))


def test_a_container_over_the_limit_is_refused_by_its_header() -> None:
    content = encoded_sound(tone(440, rate=48_000, seconds=20), container="ipod", codec="aac", rate=48_000)
    with pytest.raises(MediaTooLarge, match=r"is 20 s long; media\.max_audio_s allows 10 s"):
        read(content, max_s=10)


def test_a_stream_that_claims_no_length_is_refused_while_it_is_decoded() -> None:
    content = encoded_sound(tone(440, rate=48_000, seconds=20), container="adts", codec="aac", rate=48_000)
    with pytest.raises(MediaTooLarge, match=r"media\.max_audio_s allows 10 s"):
        read(content, max_s=10)


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    ],
)
def test_formats_that_name_other_files_are_not_read(content: bytes) -> None:
    with pytest.raises(MediaCorrupt, match=r"is a (playlist|plain text), not a recording"):
        read(content)
