"""Recordings of every format, rate and shape, whole and broken."""

from __future__ import annotations

import io
import struct
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
import soundfile

from handlers.decoding.audio import SAMPLE_RATE, read_sound
from handlers.errors import InvalidInput, MediaCorrupt, MediaTooLarge
from handlers.media import Media
from handlers.recording import AsrHandler

FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_U8"),
    ("WAV", "FLOAT"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]
WHOLE = pytest.mark.parametrize(("container", "subtype"), FORMATS)


def tone(frequency: float, *, rate: int = SAMPLE_RATE, seconds: float = 1.0) -> Any:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)


def encoded(samples: Any, *, rate: int = SAMPLE_RATE, container: str = "WAV", subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype)
    return file.getvalue()


def read(value: Any, *, max_s: float = 60.0, **more: Any) -> Any:
    if isinstance(value, bytes):
        value = Media(value, "s3://clips/a.wav")
    return read_sound(value, field="data.audio", max_s=max_s, **more).samples


def strongest_frequency(samples: Any) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * SAMPLE_RATE / len(samples))


@WHOLE
def test_every_format_decodes_to_float32_mono_at_16_khz(container: str, subtype: str) -> None:
    samples = read(encoded(tone(440), container=container, subtype=subtype))
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert len(samples) == pytest.approx(SAMPLE_RATE, abs=1200)
    assert strongest_frequency(samples) == pytest.approx(440, abs=2)
    assert np.sqrt((samples**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 192000])
def test_any_rate_keeps_its_pitch_and_length(rate: int) -> None:
    samples = read(encoded(tone(440, rate=rate), rate=rate))
    assert len(samples) == pytest.approx(SAMPLE_RATE, abs=2)
    assert strongest_frequency(samples) == pytest.approx(440, abs=2)


def test_what_16_khz_cannot_hold_is_filtered_out_rather_than_folded_back() -> None:
    samples = read(encoded(tone(15000, rate=48000), rate=48000))
    assert np.abs(samples[1000:-1000]).max() < 0.005


def test_channels_are_averaged() -> None:
    both = np.stack([tone(440), np.zeros(SAMPLE_RATE)], axis=1)
    assert np.allclose(read(encoded(both)), tone(440) / 2, atol=1e-3)
    apart = np.stack([tone(440), tone(1000)], axis=1)
    assert np.allclose(read(encoded(apart)), apart.mean(axis=1), atol=1e-3)


@pytest.mark.parametrize("louder", [1.0, 0.8])
@pytest.mark.parametrize("channels", [2, 4])
def test_channels_that_oppose_each_other_are_not_silence(louder: float, channels: int) -> None:
    opposed = np.stack([tone(440), -louder * tone(440)] * (channels // 2), axis=1)
    for value in (encoded(opposed), encoded(opposed, container="FLAC"), opposed.astype(np.float32)):
        samples = read(value)
        assert np.sqrt((samples**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)
        assert strongest_frequency(samples) == pytest.approx(440, abs=2)


def test_float_samples_beyond_full_scale_are_clipped() -> None:
    samples = read(encoded(tone(440) * 4, subtype="FLOAT"))
    assert samples.max() == 1.0
    assert samples.min() == -1.0


def test_float_samples_that_are_no_numbers_are_corrupt() -> None:
    with pytest.raises(MediaCorrupt, match="not numbers"):
        read(encoded(np.array([0.0, np.nan, np.inf, 0.0]), subtype="FLOAT"))


@pytest.mark.parametrize("rate", [SAMPLE_RATE, 44_100])
def test_integers_that_were_stored_as_floats_are_refused_and_what_is_too_loud_is_clipped(rate: int) -> None:
    with pytest.raises(MediaCorrupt, match=r"of up to .* full scale is 1; divide them"):
        read(encoded(tone(440, rate=rate) * 32768, rate=rate, subtype="FLOAT"))
    loud = read(encoded(tone(440, rate=rate) * 4, rate=rate, subtype="FLOAT"))
    assert (loud.min(), loud.max()) == (-1, 1)


def test_a_long_recording_is_the_same_as_its_blocks() -> None:
    whole = tone(440, rate=44100, seconds=60)
    samples = read(encoded(np.stack([whole, whole], axis=1), rate=44100), max_s=61)
    assert len(samples) == pytest.approx(60 * SAMPLE_RATE, abs=2)
    assert np.allclose(samples[2000:-2000], tone(440, seconds=60)[2000 : len(samples) - 2000], atol=1e-3)


def test_empty_bytes_name_the_field_the_source_and_the_cure() -> None:
    with pytest.raises(MediaCorrupt) as caught:
        read(b"")
    assert caught.value.message == (
        "data.audio (s3://clips/a.wav) is empty (0 bytes); send a whole wav, flac, ogg, mp3, m4a or webm file"
    )


@pytest.mark.parametrize("content", [b"not audio", b"\0" * 5000, b"RIFF", b"OggS", b"fLaC", b"ID3", b"\xff\xfb"])
def test_bytes_that_are_no_recording_are_corrupt(content: bytes) -> None:
    with pytest.raises(MediaCorrupt, match=r"data\.audio \(s3://clips/a\.wav\)"):
        read(content)


@WHOLE
def test_a_recording_cut_in_half_is_corrupt(container: str, subtype: str) -> None:
    content = encoded(tone(440, seconds=5), container=container, subtype=subtype)
    with pytest.raises(MediaCorrupt, match=r"cut short|that is damaged, or encoded"):
        read(content[: len(content) // 2])


@WHOLE
def test_a_recording_of_no_samples_is_corrupt(container: str, subtype: str) -> None:
    with pytest.raises(MediaCorrupt, match="send a whole wav"):
        read(encoded(np.zeros(0), container=container, subtype=subtype))


def test_a_wav_written_to_a_pipe_claims_no_size_and_is_read_to_its_end() -> None:
    content = bytearray(encoded(tone(440)))
    struct.pack_into("<I", content, 4, 0xFFFFFFFF)
    struct.pack_into("<I", content, content.index(b"data") + 4, 0xFFFFFFFF)
    assert len(read(bytes(content))) == SAMPLE_RATE


def test_a_recording_over_the_limit_is_refused_by_its_header_before_decoding() -> None:
    content = encoded(tone(440, seconds=20), container="FLAC")
    with pytest.raises(MediaTooLarge, match=r"is 20 s long; media\.max_audio_s allows 10 s"):
        read(content[:2000], max_s=10)


def test_an_absurd_header_allocates_nothing() -> None:
    content = bytearray(encoded(tone(440), container="FLAC"))
    content[21] |= 0x0F  # 36 bits of sample count, all ones: 49 days
    content[22:26] = b"\xff\xff\xff\xff"
    tracemalloc.start()
    try:
        with pytest.raises(MediaTooLarge):
            read(bytes(content), max_s=3600)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
        with pytest.raises(MediaCorrupt):
            read(bytes(content), max_s=1e9)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("at", "layout", "value"), [(24, "<I", 1), (24, "<I", 4_000_000_000), (22, "<H", 999)])
def test_a_header_with_an_impossible_rate_or_channel_count_is_corrupt(at: int, layout: str, value: int) -> None:
    content = bytearray(encoded(tone(440)))
    struct.pack_into(layout, content, at, value)
    with pytest.raises(MediaCorrupt):
        read(bytes(content))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_of_floats_are_taken_as_they_are(dtype: Any) -> None:
    assert np.allclose(read(tone(440).astype(dtype)), tone(440), atol=1e-6)


def test_arrays_of_int16_are_scaled() -> None:
    samples = (tone(440) * 32767).astype(np.int16)
    assert np.allclose(read(samples), tone(440), atol=1e-3)


def test_arrays_are_resampled_from_their_rate_and_averaged() -> None:
    stereo = np.stack([tone(440, rate=48000)] * 2, axis=1)
    samples = read(stereo, sampling_rate=48000)
    assert len(samples) == SAMPLE_RATE
    assert strongest_frequency(samples) == pytest.approx(440, abs=2)


def test_an_array_given_by_the_caller_is_never_changed() -> None:
    samples = tone(440).astype(np.float32) * 2.0
    before = samples.copy()
    read(samples)
    assert np.array_equal(samples, before)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.zeros(5, np.int32), "is an array of int32; it must be float32, float64 or int16"),
        (
            np.zeros((2, 16000), np.float32),
            "has shape (2, 16000); it must be (samples,) or (samples, channels)",
        ),
        (np.zeros((2, 2, 2), np.float32), "has shape (2, 2, 2)"),
        (np.array([0.0, np.nan]), "beyond -1..1"),
        (np.array([0.0, 30000.0]), "beyond -1..1"),
        ("s3://clips/a.wav", 'is "s3://clips/a.wav", which was not fetched'),
        (5, "is 5; it must be one address, bytes or a numpy array"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_what_it_must_be(value: Any, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(value)
    assert told in caught.value.message


@pytest.mark.parametrize("rate", [0, -1, 16000.0, "16000", True, 10**9])
def test_a_bad_sampling_rate_is_refused(rate: Any) -> None:
    with pytest.raises(InvalidInput, match=r"data\.sampling_rate is .*1000 to 768000 Hz"):
        read(tone(440), sampling_rate=rate)


def test_an_empty_or_overlong_array_is_refused() -> None:
    with pytest.raises(MediaCorrupt, match="no samples"):
        read(np.zeros(0))
    with pytest.raises(MediaTooLarge, match="allows 1 s"):
        read(np.zeros(16001), max_s=1)


def test_the_handler_returns_text_language_segments_and_words_where_asked() -> None:
    raw = {
        "text": "hi",
        "language": "en",
        "segments": [{"start": 0.0, "end": 1.0, "text": "hi"}],
        "duration_s": 1.0,
        "windows": 1,
    }
    assert AsrHandler().postprocess(raw, {}) == {
        "text": "hi",
        "language": "en",
        "segments": [{"start": 0.0, "end": 1.0, "text": "hi"}],
        "metadata": {"duration_s": 1.0, "windows": 1},
    }
    words = [{"word": "hi", "start": 0.0, "end": 1.0}]
    assert AsrHandler().postprocess({**raw, "words": words}, {})["words"] == words


@pytest.mark.parametrize("container", ["SDS", "MAT5", "PAF", "XI", "VOC"])
def test_formats_that_nobody_sends_are_not_given_to_their_readers(
    container: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The reader of SDS prints a line to the output of the process for each sample that is damaged."""
    content = bytearray(
        encoded(tone(440, seconds=1), container=container, subtype=soundfile.default_subtype(container))
    )
    content[200:4000:7] = b"\xff" * len(range(200, 4000, 7))
    with pytest.raises(MediaCorrupt, match="no recording of a known format; send a whole wav"):
        read(bytes(content))
    assert capfd.readouterr().out == ""


def test_a_header_that_sends_its_reader_before_the_start_prints_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8000, np.float32), 8000, format="AIFF")
    printed: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    content = file.getvalue()
    at = content.index(b"SSND")
    with pytest.raises(MediaCorrupt):
        read(content[: at + 3] + b"\xff\xff\xff\x7f\x88" + content[at + 8 :])
    assert printed == []
