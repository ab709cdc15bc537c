"""Files with bytes changed or missing: each is read, or refused with an error of ours, and no decoder crashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from handlers.decoding.audio import read_sound
from handlers.decoding.video import read_video
from handlers.errors import MediaError
from handlers.settings import MediaSettings
from tests.containers import encoded_sound, encoded_video

pytestmark = pytest.mark.processes

_FRAMES = np.random.default_rng(0).integers(0, 256, (16, 32, 48, 3), np.uint8)
_TONE = 0.5 * np.sin(np.arange(24_000) / 20)


def video(container: str, codec: str, **more: Any) -> bytes:
    return encoded_video(_FRAMES, container=container, codec=codec, **more)


def sound(container: str, codec: str, **more: Any) -> bytes:
    return encoded_sound(_TONE, container=container, codec=codec, rate=48_000, **more)


MAKERS: dict[str, Callable[[], bytes]] = {
    "mp4": lambda: video("mp4", "libx264", index_first=True, options={"g": "5"}),
    "webm": lambda: video("webm", "libvpx-vp9", options={"deadline": "realtime"}),
    "avi": lambda: video("avi", "mpeg4"),
    "mpegts": lambda: video("mpegts", "libx264"),
    "flv": lambda: video("flv", "libx264"),
    "gif": lambda: video("gif", "gif"),
    "m4a": lambda: sound("ipod", "aac"),
    "m4a of 8 channels": lambda: sound("ipod", "aac", layout="7.1"),
    "opus": lambda: sound("webm", "libopus"),
    "aac": lambda: sound("adts", "aac"),
    "mp3": lambda: sound("mp3", "libmp3lame"),
    "mka": lambda: sound("matroska", "flac"),
}


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return `content` cut, or with some bytes changed: anywhere, in its beginning or in its end."""
    changed = bytearray(content)
    near = min(len(content), 1000)
    start, stop = [(0, len(content)), (0, near), (len(content) - near, len(content))][int(rng.integers(3))]
    for position in rng.integers(start, stop, int(rng.integers(1, 12))):
        changed[position] = int(rng.integers(256))
    return bytes(changed[: int(rng.integers(len(content)))] if rng.random() < 0.25 else changed)


@pytest.mark.parametrize("kind", MAKERS)
def test_damage_is_survived_or_told(kind: str) -> None:
    content, rng = MAKERS[kind](), np.random.default_rng(7)
    messages = []
    for _ in range(60):
        broken = damaged(content, rng)
        for read in (_read_video, _read_audio):
            try:
                read(broken)
            except MediaError as error:
                messages.append(error.message)
    assert 60 <= len(messages) < 120  # there is no sound in these videos, and no picture in these recordings
    assert [message for message in messages if "data.media (bytes) " not in message] == []


def _read_video(content: bytes) -> None:
    found = read_video(content, field="data.media", limits=MediaSettings())
    assert len(found.frames) == len(found.frame_times_s) > 0
    assert found.frame_times_s == sorted(found.frame_times_s)


def _read_audio(content: bytes) -> None:
    samples = read_sound(content, field="data.media", max_s=3600).samples
    assert np.isfinite(samples).all()
    assert len(samples) > 0
