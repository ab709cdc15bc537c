"""Recordings that are small as files and large once decoded: memory holds them once, and a budget bounds the work."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from handlers.decoding.audio import SAMPLE_RATE, read_sound
from handlers.errors import MediaTooLarge
from handlers.media import Media
from handlers.recording import AsrHandler
from handlers.settings import MediaSettings
from tests.containers import encoded_sound


def flac_of_silence(seconds: int, *, rate: int = SAMPLE_RATE, channels: int = 1) -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, channels, format="FLAC") as flac:
        for _ in range(seconds):
            flac.write(np.zeros((rate, channels), np.int16))
    return file.getvalue()


def without_length(flac: bytes) -> bytes:
    """Return a FLAC whose header tells no count of samples, as a writer to a pipe leaves it."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


DECODES_AMID_GAPS = """
import pathlib, resource, sys
from handlers.decoding.audio import read_sound
from handlers.decoding.children.memory import trim

content = pathlib.Path(sys.argv[1]).read_bytes()
read_sound(content[: len(content) // int(sys.argv[2])], field="warm", max_s=3600)
small = [bytes(bytearray(100_000)) for _ in range(800)]
last = bytes(bytearray(100_000))
small.clear()  # leaves a gap of 80 MB on the heap, which is given back to the system
trim()
resident = int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
pathlib.Path("/proc/self/clear_refs").write_text("5")
samples = read_sound(content, field="data.audio", max_s=3600).samples
status = pathlib.Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(len(samples), peak - resident)
"""


@pytest.mark.processes
@pytest.mark.parametrize(("files", "rate"), [(1, 16_000), (2, 8_000)])
def test_memory_holds_a_long_recording_once(files: int, rate: int, tmp_path: Path) -> None:
    content = flac_of_silence(2400 // files, rate=rate) * files
    (tmp_path / "long.flac").write_bytes(content)
    decoded = subprocess.run(
        [sys.executable, "-c", DECODES_AMID_GAPS, tmp_path / "long.flac", str(files)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    count, grown = map(int, decoded.stdout.split())
    assert count == 2400 * SAMPLE_RATE
    assert grown < 1.3 * 4 * count


def test_a_flac_written_to_a_pipe_is_read_to_its_end() -> None:
    tone = 0.5 * np.sin(0.1 * np.arange(30 * SAMPLE_RATE))
    file = io.BytesIO()
    soundfile.write(file, np.stack([tone] * 4, axis=1), SAMPLE_RATE, format="FLAC")
    samples = read_sound(without_length(file.getvalue()), field="data.audio", max_s=3600).samples
    assert np.allclose(samples, tone, atol=1e-3)


@pytest.mark.parametrize("is_told", [True, False])
def test_samples_beyond_the_budget_are_refused_by_the_header_or_while_decoding(is_told: bool) -> None:
    content = flac_of_silence(2, rate=48_000, channels=8)
    content = content if is_told else without_length(content)
    handler = AsrHandler(MediaSettings(max_audio_samples=600_000))
    with pytest.raises(MediaTooLarge, match=r"600000 samples.*media\.max_audio_samples"):
        handler.preprocess({"audio": Media(content, "s3://clips/a.flac")}, {})
    AsrHandler(MediaSettings(max_audio_samples=800_000)).preprocess({"audio": Media(content, "it")}, {})


def test_files_one_behind_the_other_share_the_budget() -> None:
    content = flac_of_silence(2, channels=2) * 3
    handler = AsrHandler(MediaSettings(max_audio_samples=150_000))
    with pytest.raises(MediaTooLarge, match=r"file 3 of 3.*media\.max_audio_samples"):
        handler.preprocess({"audio": Media(content, "s3://clips/a.flac")}, {})


def test_a_container_is_held_to_the_budget_too() -> None:
    content = encoded_sound(np.zeros(48_000 * 5), container="adts", codec="aac", rate=48_000, layout="stereo")
    handler = AsrHandler(MediaSettings(max_audio_samples=100_000))
    with pytest.raises(MediaTooLarge, match=r"media\.max_audio_samples"):
        handler.preprocess({"audio": Media(content, "s3://clips/a.aac")}, {})
