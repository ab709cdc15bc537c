"""Media that come as data: URIs or as objects of Python."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from handlers.decoding.audio import read_sound
from handlers.decoding.document import read_document
from handlers.decoding.images import read_image
from handlers.decoding.video import read_video
from handlers.errors import InvalidInput, MediaCorrupt
from handlers.file_kinds import kind_of
from handlers.media import decode_data_uri
from handlers.settings import MediaSettings

PAYLOAD = base64.b64encode(b"the bytes").decode()


@pytest.mark.parametrize(
    ("head", "content_type"),
    [
        ("image/png;base64", "image/png"),
        ("image/png;BASE64", "image/png"),
        ("image/png;charset=utf-8; Base64", "image/png;charset=utf-8"),
        (";base64", None),
    ],
)
def test_base64_is_known_in_any_case(head: str, content_type: str | None) -> None:
    media = decode_data_uri(f"data:{head},{PAYLOAD}", max_bytes=100)
    assert (media.content, media.content_type) == (b"the bytes", content_type)


@pytest.mark.parametrize("head", ["text/plain", "text/plain;charset=utf-8", "", "text/plain;"])
def test_without_an_encoding_it_is_percent_encoded(head: str) -> None:
    assert decode_data_uri(f"data:{head},the%20bytes", max_bytes=100).content == b"the bytes"


@pytest.mark.parametrize("named", ["base-64", "hex", "base64url", "base64;charset=utf-8"])
def test_another_encoding_is_refused_with_those_that_are_known(named: str) -> None:
    with pytest.raises(MediaCorrupt, match=r'names the encoding "[a-z0-9-]+"; only base64, named last, and percent-'):
        decode_data_uri(f"data:image/png;{named},{PAYLOAD}", max_bytes=100)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"hello world " * 20, "a plain text"),
        (b"The quick brown foxes jump over it\n" * 4, "a plain text"),
        (base64.b64encode(bytes(range(256)) * 4), "base64 text"),
        (base64.encodebytes(bytes(range(256)) * 4), "base64 text"),
        (base64.b64encode(bytes(range(256)) * 4).replace(b"+", b" "), "base64 text"),
    ],
)
def test_words_are_no_base64(text: bytes, kind: str) -> None:
    found = kind_of(text)
    assert found is not None
    assert found.name == kind


@pytest.mark.parametrize("read", [read_image, read_document, read_video, read_sound])
def test_a_masked_array_is_refused_with_what_to_do(read: Any) -> None:
    shape = {read_video: (2, 8, 8, 3), read_sound: (8000,)}.get(read, (8, 8, 3))
    limits = {"max_s": 10.0} if read is read_sound else {"limits": MediaSettings()}
    whole = np.zeros(shape, np.int16 if read is read_sound else np.uint8)
    masked: Any = np.ma.masked_array(whole, mask=np.zeros(shape, bool))
    with pytest.raises(InvalidInput, match=r"^data\.it is a masked array; fill what is masked first, as by array\.f"):
        read(masked, field="data.it", **limits)
    read(masked.filled(0), field="data.it", **limits)
