"""Small whole files of every format that a decoder reads, by medium and name: what hostile files are made of."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache

import numpy as np
import soundfile
from PIL import Image

from tests.containers import encoded_sound, encoded_video
from tests.contract import samples

SOUNDS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "au": ("AU", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "gsm": ("RAW", "GSM610"),
}
IMAGES = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF")
VIDEOS = {"mp4": "libx264", "matroska": "libx264", "avi": "mpeg4"}


@cache
def whole_files() -> dict[str, dict[str, bytes]]:
    """Return the files by medium ("sound", "image", "video", "document") and format."""
    return {
        "sound": dict(_sounds()),
        "image": {kind.lower(): _image(kind) for kind in IMAGES},
        "video": {container: _video(container) for container in VIDEOS},
        "document": {"pdf": samples.letter()},
    }


def _sounds() -> Iterator[tuple[str, bytes]]:
    tone = (0.5 * np.sin(0.3 * np.arange(8000))).astype(np.float32)
    for name, (container, subtype) in SOUNDS.items():
        file = io.BytesIO()
        soundfile.write(file, tone, 8000, format=container, subtype=subtype)
        yield name, file.getvalue()
    yield "m4a", encoded_sound(tone, container="ipod", codec="aac", rate=16_000)


def _image(kind: str) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(samples.sign())).convert("RGB").save(file, kind)
    return file.getvalue()


def _video(container: str) -> bytes:
    frames = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), np.uint8)
    return encoded_video(frames, container=container, codec=VIDEOS[container])
