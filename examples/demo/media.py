"""What the models are shown: made here, from one seed, so that what it shows is known."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass

import soundfile
from PIL import Image

from tests.containers import encoded_video
from tests.documents import Line, rendered, scanned_pdf, text_pdf
from tests.models.audio.sounds import KINDS, RATE, Sounds
from tests.models.video.clips import DIRECTIONS, moving_square
from tests.models.vlm.drawings import QUESTIONS, draw
from tests.recordings import encoded, librivox_recordings

_SEED = 20_260_117
_DPI = 110
_RECORDING_FORMATS = (("FLAC", 16_000, 1), ("MP3", 48_000, 2))

_INVOICE = (
    "INVOICE 2024-0117",
    "Sold to: Blue Harbor Books",
    "12 notebooks at 4.50 each",
    "3 fountain pens at 19.00 each",
    "Total 111.00",
)
_TICKET = ("Platform 7", "Seat 42A")
_LETTER = (("Dear reader,", "this page has a text layer."), ("Attachment", "This page was scanned."))


@dataclass(frozen=True, slots=True)
class Medium:
    """One file, and what is right to say about it."""

    name: str
    content: bytes
    shows: str
    question: str = ""


def recordings() -> list[Medium]:
    """Return two spoken sentences, each in two formats, rates and channel counts, with their transcripts."""
    return [
        Medium(
            f"{recording.path.stem}.{file_format.lower()}",
            encoded(recording, file_format, rate=rate, channels=channels),
            recording.transcript,
        )
        for recording in librivox_recordings()
        for file_format, rate, channels in _RECORDING_FORMATS
    ]


def sounds() -> list[Medium]:
    """Return one sound of each kind that the classifier knows, as WAV, with its kind."""
    maker = Sounds(_SEED, held_out=True)
    files = []
    for kind in KINDS:
        file = io.BytesIO()
        soundfile.write(file, maker.make(kind, seconds=1.5), RATE, format="WAV")
        files.append(Medium(f"{kind}.wav", file.getvalue(), kind))
    return files


def clips() -> list[Medium]:
    """Return an mp4 of a square for each way it may move, with that way."""
    rng = random.Random(_SEED)
    return [
        Medium(f"square-{way}.mp4", encoded_video(moving_square(way, rng, frames=20, size=96)), way)
        for way in DIRECTIONS
    ]


def drawings() -> list[Medium]:
    """Return drawings of shapes as PNG, each with another question and its answer."""
    rng = random.Random(_SEED)
    files = []
    for kind, ways_to_ask in QUESTIONS.items():
        drawing = draw(rng, size=224)
        name = f"{drawing.answer('description').replace(' ', '-')}.png"
        files.append(Medium(name, _png(drawing.image), drawing.answer(kind), ways_to_ask[0]))
    return files


def scans() -> list[Medium]:
    """Return pictures of an invoice and of a ticket as PNG, with all their lines."""
    return [
        Medium(f"{name}.png", _png(_page_picture(lines)), "\n".join(lines))
        for name, lines in (("invoice", _INVOICE), ("ticket", _TICKET))
    ]


def letter() -> Medium:
    """Return a PDF of two pages, one with a text layer and one scanned, with the text of both."""
    written, scanned = _LETTER
    pdf = _joined(_page(written), scanned_pdf([_page_picture(scanned)], dpi=_DPI))
    return Medium("letter.pdf", pdf, "\n\n".join("\n".join(page) for page in _LETTER))


def _page(lines: Sequence[str]) -> bytes:
    """Return a page of Helvetica, the first line larger, as a PDF with a text layer."""
    placed = [Line(50, 60 + 36 * row, text, 14 if row else 20) for row, text in enumerate(lines)]
    return text_pdf([placed], size=(400, 70 + 36 * len(lines)))


def _page_picture(lines: Sequence[str]) -> Image.Image:
    return rendered(_page(lines), dpi=_DPI)[0]


def _joined(*pdfs: bytes) -> bytes:
    from pypdfium2 import PdfDocument  # type: ignore[import-untyped]

    file = io.BytesIO()
    with PdfDocument.new() as whole:
        for pdf in pdfs:
            with PdfDocument(pdf) as part:
                whole.import_pages(part)
        whole.save(file)
    return file.getvalue()


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
