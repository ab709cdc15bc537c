"""Recordings that are several files one behind the other, and headers that claim too little: all of it is heard."""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np
import pytest
import soundfile

from handlers.decoding.audio import SAMPLE_RATE, read_sound
from handlers.decoding.audio_parts import parts_of
from handlers.errors import MediaCorrupt, MediaTooLarge
from handlers.media import Media
from handlers.recording import AsrHandler
from tests.containers import encoded_sound
from tests.unit.handlers.decoding.test_audio import encoded, strongest_frequency, tone

BY_SOUNDFILE = [
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("MP3", "MPEG_LAYER_III"),
    ("AU", "PCM_16"),
    ("AU", "ULAW"),
    ("WAV", "PCM_16"),
    ("WAV", "GSM610"),
    ("WAV", "IMA_ADPCM"),
    ("AIFF", "PCM_16"),
    ("CAF", "PCM_16"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("SVX", "PCM_16"),
    ("NIST", "PCM_16"),
]
BY_FFMPEG = [
    ("ipod", "aac"),
    ("adts", "aac"),
    ("webm", "libopus"),
    ("matroska", "flac"),
    ("ac3", "ac3"),
    ("mpegts", "aac"),
    ("ogg", "libopus"),
    ("mp3", "libmp3lame"),
]


def read(content: bytes, max_s: float = 60.0) -> Any:
    return read_sound(Media(content, "s3://clips/a"), field="data.audio", max_s=max_s)


def refusal(content: bytes) -> str:
    """Return why the content is refused, nothing where it is read."""
    try:
        read(content)
    except (MediaCorrupt, MediaTooLarge) as error:
        return error.message
    return ""


def assert_both_are_heard(content: bytes) -> None:
    sound = read(content)
    assert len(sound.samples) / SAMPLE_RATE == pytest.approx(5, abs=0.35)
    assert strongest_frequency(sound.samples[2000 : 2 * SAMPLE_RATE - 4000]) == pytest.approx(440, abs=3)
    assert strongest_frequency(sound.samples[-2 * SAMPLE_RATE : -4000]) == pytest.approx(880, abs=3)
    assert sound.truncated is None


@pytest.mark.parametrize(("container", "subtype"), BY_SOUNDFILE)
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_files_one_behind_the_other_are_heard_to_the_end(container: str, subtype: str, rate: int) -> None:
    if subtype == "OPUS":
        rate = 48_000
    first = encoded(tone(440, rate=rate, seconds=2), rate=rate, container=container, subtype=subtype)
    second = encoded(tone(880, seconds=3), container=container, subtype=subtype)
    assert_both_are_heard(first + second)
    assert len(parts_of(first)) == len(parts_of(second)) == 1


@pytest.mark.parametrize(("container", "codec"), BY_FFMPEG)
def test_containers_one_behind_the_other_are_heard_to_the_end(container: str, codec: str) -> None:
    first, second = (
        encoded_sound(tone(pitch, rate=48_000, seconds=length), container=container, codec=codec, rate=48_000)
        for pitch, length in ((440, 2), (880, 3))
    )
    assert_both_are_heard(first + second)


def test_an_mp3_without_a_tag_behind_one_with_a_tag_is_heard() -> None:
    first = encoded(tone(440, seconds=2), container="MP3", subtype="MPEG_LAYER_III")
    second = encoded(tone(880, seconds=3), container="MP3", subtype="MPEG_LAYER_III")
    id3 = b"ID3\4\0\0\0\0\0\x10" + bytes(16)
    assert_both_are_heard(first + id3 + second)
    assert_both_are_heard(id3 + first + id3 + second)


def test_many_files_are_heard_and_count_together() -> None:
    one = encoded(tone(440), container="FLAC")
    assert len(read(one * 20).samples) == 20 * SAMPLE_RATE
    with pytest.raises(MediaTooLarge, match=r"media\.max_audio_s"):
        read(one * 20, max_s=10)


def test_many_headers_of_caf_before_a_long_list_of_chunks_take_little_work() -> None:
    class Counted(bytes):
        reads = 0

        def __getitem__(self, index: Any) -> Any:
            Counted.reads += 1
            return super().__getitem__(index)

    headers = [b"caff\0\1\0\0desc" + struct.pack(">Q", 20 * (1000 - number)) for number in range(1001)]
    endless = bytes(12 * 5000) + b"free" + struct.pack(">Q", 1 << 40)
    parts_of(Counted(b"".join(headers) + endless))
    assert Counted.reads < 1001 * 2000


def test_a_file_among_several_that_is_damaged_is_named() -> None:
    one = encoded(tone(440), container="FLAC")
    with pytest.raises(MediaCorrupt, match=r"file 2 of 3 in it, .*; send a whole"):
        read(one + one[:1000] + one)


def test_of_a_wav_that_lost_its_end_the_rest_is_read_and_told_in_the_inputs() -> None:
    content = encoded(tone(440, seconds=5))
    inputs = AsrHandler().preprocess({"audio": Media(content[: len(content) * 4 // 5], "a")}, {})
    assert inputs["duration_s"] == pytest.approx(4, abs=0.1)
    assert inputs["truncated"] == "its header promises 160044 bytes and 128035 came; 4.0 s are there"
    assert "truncated" not in AsrHandler().preprocess({"audio": Media(content, "a")}, {})


def test_damaged_frames_of_an_mp3_are_left_out_and_told_and_nothing_is_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    content = bytearray(encoded(tone(440, seconds=5), container="MP3", subtype="MPEG_LAYER_III"))
    for position in range(len(content) // 2, len(content) // 2 + 300):
        content[position] ^= 0xFF
    sound = read(bytes(content))
    assert len(sound.samples) / SAMPLE_RATE == pytest.approx(5, abs=0.7)
    assert re.fullmatch(r"\d+ damaged frames? of it cannot be decoded; \d\.\d s are there", sound.truncated)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("container", ["AIFF", "AU", "MP3", "RF64", "W64", "CAF", "SVX", "NIST"])
def test_of_other_files_that_lost_their_end_the_rest_is_read_and_told(container: str) -> None:
    subtype = "MPEG_LAYER_III" if container == "MP3" else "PCM_16"
    content = encoded(tone(440, seconds=5), container=container, subtype=subtype)
    sound = read(content[: len(content) * 4 // 5])
    assert len(sound.samples) / SAMPLE_RATE == pytest.approx(4, abs=0.3)
    assert "its header promises" in sound.truncated
    with pytest.raises(MediaCorrupt, match="cut short"):
        read(content[: len(content) // 3])


@pytest.mark.parametrize("riff", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("data", [0, 0xFFFFFFFF])
def test_a_wav_written_to_a_pipe_is_read_to_its_end_whatever_its_header_claims(riff: int, data: int) -> None:
    content = bytearray(encoded(tone(440, seconds=3)))
    struct.pack_into("<I", content, 4, riff)
    struct.pack_into("<I", content, content.index(b"data") + 4, data)
    assert len(read(bytes(content)).samples) == 3 * SAMPLE_RATE
    odd = encoded(tone(440, seconds=3))
    cut = odd[: odd.index(b"data") + 4] + bytes(4) + odd[odd.index(b"data") + 8 :]
    assert len(read(cut).samples) == 3 * SAMPLE_RATE


def test_an_au_that_claims_nothing_is_read_to_its_end() -> None:
    content = encoded(tone(440, seconds=3), container="AU")
    for size in (b"\0\0\0\0", b"\xff\xff\xff\xff"):
        assert len(read(content[:8] + size + content[12:]).samples) == 3 * SAMPLE_RATE


def test_a_wav_that_truly_holds_nothing_is_corrupt() -> None:
    content = encoded(np.zeros(0))
    chunk = b"LIST" + struct.pack("<I", 4) + b"INFO"
    with pytest.raises(MediaCorrupt, match="holds no samples"):
        read(content + chunk)


def test_gsm_is_read_with_and_without_a_header() -> None:
    speech = encoded(tone(440, rate=8000, seconds=3), rate=8000, container="WAV", subtype="GSM610")
    raw = encoded(tone(440, rate=8000, seconds=3), rate=8000, container="RAW", subtype="GSM610")
    for content in (speech, raw):
        samples = read(content).samples
        assert len(samples) / SAMPLE_RATE == pytest.approx(3, abs=0.05)
        assert strongest_frequency(samples) == pytest.approx(440, abs=3)


def test_a_rate_that_is_not_read_hears_which_ones_are() -> None:
    content = bytearray(encoded(tone(440)))
    struct.pack_into("<I", content, 24, 200)
    with pytest.raises(MediaCorrupt) as caught:
        read(bytes(content))
    assert "1000 to 768000 Hz and 1 to 64 channels are read" in caught.value.message


@pytest.mark.parametrize("cut", [1, 7, 20, 40, 100, 1000])
@pytest.mark.parametrize(("container", "subtype"), BY_SOUNDFILE)
def test_nobody_hears_the_words_of_a_decoder(container: str, subtype: str, cut: int) -> None:
    content = encoded(tone(440), container=container, subtype=subtype)
    for damaged in (content[:cut], content[:40] + bytes(cut), content[:cut] + b"\xff" * 500):
        message = refusal(damaged)
        assert not any(words in message for words in ("SF_INFO", "sf_open", "libsndfile", "Invalid data"))
        assert not message or "send" in message or "convert" in message


def test_soundfile_is_the_one_that_writes_these() -> None:
    assert "GSM610" in soundfile.available_subtypes("WAV")
