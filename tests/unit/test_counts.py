"""Messages count as people do: one page, two pages."""

from __future__ import annotations

import pytest

from handlers.decoding.audio_samples import Gathering
from handlers.errors import MediaCorrupt, Undecodable, counted
from streams.client_errors import NoAnswer, RequestsUnanswered
from streams.pipeline.decoding import decode_request


def test_one_is_one_thing_and_any_other_number_several() -> None:
    assert [counted(number, "page") for number in range(3)] == ["0 pages", "1 page", "2 pages"]


def test_messages_speak_of_one_thing_as_one() -> None:
    with pytest.raises(MediaCorrupt, match="claims 3 Hz and 1 channel; "):
        Gathering(1.0).add(iter(()), rate=3, channels=1, claimed=None, what="it", cure="send another")
    with pytest.raises(Undecodable, match=r"the message \(1 byte, starting b'x'\)"):
        decode_request(b"x")
    assert str(RequestsUnanswered([("r", NoAnswer("why", "r"))], 1)) == "no result for 1 of 1 request: why"
