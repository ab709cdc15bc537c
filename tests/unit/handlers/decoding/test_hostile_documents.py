"""PDFs that mean harm: each is refused with its reason, within limits, and the next one is read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from handlers.decoding.children import processes
from handlers.decoding.document import read_document
from handlers.decoding.document_pages import Page
from handlers.errors import MediaCorrupt, MediaTooLarge, OutOfMemory
from handlers.settings import MediaSettings
from tests import hostile_documents as hostile
from tests.documents import Line, text_pdf

pytestmark = pytest.mark.processes

MEMORY_BYTES = 256 * 1024**2
LIMITS = MediaSettings(decode_memory_bytes=MEMORY_BYTES, document_timeout_s=120)
SHORT = MediaSettings(decode_memory_bytes=1024**3, document_timeout_s=1)


def read(content: bytes, limits: MediaSettings = LIMITS) -> list[Page]:
    return read_document(content, field="data.document", limits=limits)


def read_well() -> None:
    [page] = read(text_pdf([[Line(50, 60, "well")]]))
    assert [word["text"] for word in page["words"] or []] == ["well"]


@pytest.mark.parametrize("made", [hostile.self_drawing_form, hostile.fan_of_forms, hostile.unpacking_content])
def test_a_pdf_that_takes_all_memory_is_refused_with_the_limit(made: Callable[[], bytes]) -> None:
    with pytest.raises(
        MediaTooLarge,
        match=rf"data\.document \(bytes\) takes more memory to decode than media\.decode_memory_bytes allows "
        rf"\({MEMORY_BYTES} bytes\): save the file again",
    ):
        read(made())
    read_well()


@pytest.mark.parametrize("made", [hostile.endless_pattern, hostile.endless_shading, hostile.masking_itself])
def test_a_pdf_that_takes_for_ever_is_refused_with_the_limit(made: Callable[[], bytes]) -> None:
    with pytest.raises(
        MediaTooLarge,
        match=r"takes longer to decode than media\.document_timeout_s allows \(1 s\): save the file",
    ):
        read(made(), SHORT)
    read_well()


def test_a_pdf_of_several_pages_is_told_that_fewer_may_do() -> None:
    endless = hostile.endless_pattern()
    two = endless.replace(b"/Kids[3 0 R]/Count 1", b"/Kids[3 0 R 3 0 R]/Count 2")
    with pytest.raises(MediaTooLarge, match=r"name fewer pages in data\.pages, or save the file again"):
        read(two, SHORT)


@pytest.mark.parametrize(
    ("reason", "detail", "kind", "message"),
    [
        ("crash", "SIGSEGV", MediaCorrupt, r"is damaged: it makes its decoder crash \(SIGSEGV\); save the"),
        (
            "killed",
            "SIGKILL",
            OutOfMemory,
            "was killed from outside, most likely as the machine has no memory",
        ),
    ],
)
def test_a_pdf_whose_reader_ends_says_how(
    monkeypatch: pytest.MonkeyPatch, reason: str, detail: str, kind: type[Exception], message: str
) -> None:
    def call(*_: object) -> Iterator[None]:
        yield from ()
        raise processes.ChildEnded(reason, detail)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(processes.documents, "call", call)
        with pytest.raises(kind, match=message):
            read(text_pdf([[Line(50, 60, "x")]]))
    read_well()


def test_a_pdf_that_hangs_holds_up_no_other() -> None:
    """One child is busy to the end of the test; the other reads on."""
    waiting = MediaSettings(document_timeout_s=2)
    refused: list[Exception] = []

    def hang() -> None:
        with pytest.raises(MediaTooLarge) as caught:
            read(hostile.endless_pattern(), waiting)
        refused.append(caught.value)

    thread = threading.Thread(target=hang)
    thread.start()
    started = time.monotonic()
    reads = 0
    while thread.is_alive():
        read_well()
        reads += 1
        assert time.monotonic() - started < 120
    thread.join()
    assert refused
    assert reads > 1


def test_a_page_as_thin_as_a_thread_is_refused_where_it_is_a_picture() -> None:
    with pytest.raises(MediaTooLarge, match=r"page 1 is 41667 x 21 pixels; one side may be at most 200 times"):
        read(hostile.thin_page())


def test_more_letters_than_allowed_are_refused() -> None:
    with pytest.raises(
        MediaTooLarge,
        match=r"has more letters by page 1 than media\.max_document_letters allows \(1000000\): save",
    ):
        read(hostile.far_too_many_letters(), MediaSettings())
