"""The tiny trained classifiers of the tests, and sounds and clips for them."""

from __future__ import annotations

import io
import random

import soundfile

from tests.containers import encoded_video
from tests.models.audio import WEIGHTS as AUDIO_WEIGHTS
from tests.models.audio.sounds import KINDS, RATE, Sounds
from tests.models.video import WEIGHTS as VIDEO_WEIGHTS
from tests.models.video.clips import DIRECTIONS, moving_square

__all__ = ["AUDIO_TASK", "AUDIO_WEIGHTS", "VIDEO_TASK", "VIDEO_WEIGHTS", "sound_files", "video_files"]

AUDIO_TASK, VIDEO_TASK = "audio-classification", "video-analysis"


def sound_files(count: int) -> list[bytes]:
    """Return recordings as FLAC files, of about a second, always the same ones."""
    sounds = Sounds(7, held_out=True)
    files = []
    for number in range(count):
        file = io.BytesIO()
        soundfile.write(file, sounds.make(KINDS[number % len(KINDS)]), RATE, format="FLAC")
        files.append(file.getvalue())
    return files


def video_files(count: int) -> list[bytes]:
    """Return clips as mp4 files, of 96 x 96 pixels and 20 frames, always the same ones."""
    rng = random.Random(7)
    kinds = list(DIRECTIONS)
    return [
        encoded_video(moving_square(kinds[number % len(kinds)], rng, frames=20, size=96)) for number in range(count)
    ]
