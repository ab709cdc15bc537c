"""A receiver of a GET that keeps what it hears."""

from __future__ import annotations

from collections.abc import Mapping

from streams.media.http_get import HttpClient


class Heard:
    """The headers and the content of a success; `pieces` says how often something came."""

    def __init__(self) -> None:
        self.headers: Mapping[str, str] | None = None
        self.content = bytearray()
        self.pieces = 0

    def begin(self, headers: Mapping[str, str]) -> None:
        assert self.headers is None, "an answer begins once"
        self.headers = dict(headers)

    def take(self, chunk: bytes) -> None:
        self.pieces += 1
        self.content += chunk

    def check(self) -> None:
        """Want all of it."""


def content_of(client: HttpClient, url: str) -> bytes:
    """Return the content at `url`, which must be a success."""
    heard = Heard()
    assert client.get(url, {}, heard).is_success
    return bytes(heard.content)
