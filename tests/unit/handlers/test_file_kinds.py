"""What is sent in the wrong place hears what it is, and which task takes it."""

from __future__ import annotations

import io
import zipfile

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from handlers.decoding.image_files import FORMATS
from handlers.errors import MediaCorrupt
from handlers.file_kinds import kind_of
from handlers.media import Media
from handlers.ocr import OcrHandler
from handlers.recording import AsrHandler
from handlers.video_analysis import VideoAnalysisHandler


def image(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, kind)
    return file.getvalue()


def sound(kind: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(16_000), 16_000, format=kind)
    return file.getvalue()


def video(kind: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 16
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return file.getvalue()


OTHERS = {
    "a PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "an HTML page": b"<!DOCTYPE html><html><head><title>Not found</title></head></html>",
    "an SVG drawing": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a zip archive": zipped("a.txt"),
    "a Word document": zipped("word/document.xml"),
    "a JSON text": b'{"audio": "s3://bucket/key"}',
    "a plain text": "Grüße, dies ist ein Brief.\n".encode(),
    "a gzip archive": b"\x1f\x8b\x08\0\0\0\0\0\0\3abc",
    "a text in UTF-16": "Grüße, dies ist ein Brief.\n".encode("utf-16"),
    "a text in UTF-32": "Grüße, dies ist ein Brief.\n".encode("utf-32"),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a data: URI in a file": b"data:image/png;base64,iVBORw0KGgo=",
    "a DjVu document": b"AT&TFORM\0\0\0\x40DJVUINFO" + bytes(100),
    "a PowerPoint document": zipped(*(f"customXml/item{number}.xml" for number in range(200)), "ppt/p.xml"),
}


def refusal(handler: type, field: str, content: bytes) -> str:
    with pytest.raises(MediaCorrupt) as caught:
        handler().preprocess({field: Media(content, "s3://b/k")}, {})
    return caught.value.message


@pytest.mark.parametrize("kind", FORMATS)
def test_images_are_known(kind: str) -> None:
    assert (found := kind_of(image(kind))) is not None or kind == "PPM"
    assert found is None or found.family == "image"


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AU", "AIFF", "CAF", "RF64"])
def test_sounds_are_known(kind: str) -> None:
    found = kind_of(sound(kind))
    assert found is not None
    assert found.family == "sound"


@pytest.mark.parametrize("kind", ["mp4", "matroska", "avi", "mpegts", "mov"])
def test_videos_are_known(kind: str) -> None:
    found = kind_of(video(kind))
    assert found is not None
    assert found.family == "video"


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    ("handler", "field", "wanted"),
    [
        (OcrHandler, "image", "an image"),
        (AsrHandler, "audio", "a recording"),
        (VideoAnalysisHandler, "video", "a video"),
    ],
)
def test_what_is_no_medium_of_the_field_hears_what_it_is(handler: type, field: str, wanted: str, name: str) -> None:
    message = refusal(handler, field, OTHERS[name])
    assert f"data.{field} (s3://b/k) is {name}, not {wanted}; " in message
    assert "send a whole" in message


def ftyp(*brands: bytes) -> bytes:
    body = brands[0] + bytes(4) + b"".join(brands[1:])
    return (len(body) + 8).to_bytes(4, "big") + b"ftyp" + body + bytes(100)


@pytest.mark.parametrize(
    ("handler", "field", "content", "told"),
    [
        (OcrHandler, "image", ftyp(b"heic", b"mif1"), "a HEIC image, which is not read; convert it to PNG"),
        (OcrHandler, "image", ftyp(b"mif1", b"heic"), "a HEIC image, which is not read; convert it to PNG"),
        (OcrHandler, "image", ftyp(b"msf1", b"hevc"), "a HEIC image, which is not read; convert it to PNG"),
        (AsrHandler, "audio", ftyp(b"heic", b"mif1"), "a HEIC image, not a recording; convert it to PNG"),
        (VideoAnalysisHandler, "video", ftyp(b"heic"), "a HEIC image, not a video; convert it to PNG"),
        (
            OcrHandler,
            "image",
            bytes(128) + b"DICM" + bytes(9),
            "a DICOM image, which is not read; convert it",
        ),
        (OcrHandler, "image", ftyp(b"crx ", b"isom"), "a Canon raw image (CR3), which is not read; convert"),
        (
            OcrHandler,
            "image",
            ftyp(b"avif", b"mif1"),
            "an AVIF image that is damaged at its beginning, or of a",
        ),
        (
            OcrHandler,
            "image",
            b"icns" + bytes(64),
            "an Apple icon (ICNS), which is not read; convert it to PNG",
        ),
        (
            AsrHandler,
            "audio",
            b"wvpk" + bytes(64),
            "a WavPack recording, which is not read; convert it to wav",
        ),
        (
            AsrHandler,
            "audio",
            sound("WAV")[:20] + b"\x61\1" + sound("WAV")[22:],
            "a wav recording that is damaged, or",
        ),
        (VideoAnalysisHandler, "video", video("mp4")[:40], "cut short: its index"),
    ],
)
def test_what_is_of_an_unread_kind_of_the_medium_hears_which(
    handler: type, field: str, content: bytes, told: str
) -> None:
    message = refusal(handler, field, content)
    assert f"data.{field} (s3://b/k) is {told}" in message
    assert "send a whole" in message


def test_a_pdf_hears_which_task_takes_it() -> None:
    assert "send it as data.document to task document-analysis" in refusal(OcrHandler, "image", OTHERS["a PDF"])


def test_media_in_each_others_places_hear_where_they_belong() -> None:
    png, wav, mp4 = image("PNG"), sound("WAV"), video("mp4")
    assert "is a PNG image, not a recording; send it as data.image" in refusal(AsrHandler, "audio", png)
    assert "is a wav recording, not an image; send it as data.audio" in refusal(OcrHandler, "image", wav)
    assert "is an mp4 or mov video, not an image; send it as data.video" in refusal(OcrHandler, "image", mp4)
    assert "is a PNG image, not a video; send it as data.image" in refusal(VideoAnalysisHandler, "video", png)
    assert "is a wav recording, not a video; send it as data.audio" in refusal(VideoAnalysisHandler, "video", wav)


def test_a_recording_in_an_mp4_sent_as_a_video_hears_that_it_has_only_sound() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    message = refusal(VideoAnalysisHandler, "video", file.getvalue())
    assert "holds no video, only audio; send it as data.audio" in message


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 8, 12, 300])
def test_any_beginning_of_a_file_may_be_asked_about(length: int) -> None:
    for content in (*OTHERS.values(), image("PNG"), sound("OGG"), bytes(300), b"\xff" * 300):
        kind_of(content[:length])
