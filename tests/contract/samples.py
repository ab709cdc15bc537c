"""Media whose content is known: a drawing, a spoken sentence, a rising tone, a moving square, documents."""

from __future__ import annotations

import io
import random
from functools import cache

import soundfile

from tests.containers import encoded_video
from tests.documents import Line, picture, text_pdf
from tests.models.audio.sounds import RATE, Sounds
from tests.models.video.clips import moving_square
from tests.models.vlm.drawings import Drawing, draw
from tests.recordings import Recording, librivox_recordings

SPOKEN: Recording = librivox_recordings()[0]
DRAWING: Drawing = draw(random.Random(5))
DRAWN_SIZE = f"{DRAWING.image.width}x{DRAWING.image.height}"
"""As the fake Ollama server names the size of what it sees."""


def speech() -> bytes:
    """Return a spoken sentence as FLAC."""
    return SPOKEN.path.read_bytes()


@cache
def drawing() -> bytes:
    """Return `DRAWING` as PNG."""
    file = io.BytesIO()
    DRAWING.image.save(file, "PNG")
    return file.getvalue()


@cache
def rising_tone() -> bytes:
    """Return a second of a tone that rises, as WAV."""
    file = io.BytesIO()
    soundfile.write(file, Sounds(3, held_out=True).make("chirp_up", seconds=1.0), RATE, format="WAV")
    return file.getvalue()


@cache
def square_to_the_left() -> bytes:
    """Return two seconds of a square that moves to the left, as MP4."""
    return encoded_video(moving_square("left", random.Random(3), frames=20, size=96))


@cache
def drawing_on_video() -> bytes:
    """Return a second of `DRAWING`, as MP4."""
    import numpy as np

    return encoded_video(np.stack([np.asarray(DRAWING.image)] * 10))


@cache
def sign() -> bytes:
    """Return a picture of two lines, INVOICE and Total: 42, as PNG."""
    file = io.BytesIO()
    picture([Line(20, 20, "INVOICE", 32), Line(20, 80, "Total: 42", 32)], size=(320, 140)).save(file, "PNG")
    return file.getvalue()


@cache
def letter() -> bytes:
    """Return two pages with a text layer, as PDF."""
    return text_pdf([[Line(72, 72, "Dear reader,"), Line(72, 100, "the total is 42.")], [Line(72, 72, "Page two")]])


def noise() -> bytes:
    """Return bytes that are no medium of any kind."""
    return b"nothing that could be decoded"
