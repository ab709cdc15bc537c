"""A fetch that keeps what it hears of a GET."""

from __future__ import annotations

from collections.abc import Mapping

from streams.media.fetch import Allowance, Fetch
from streams.media.http_get import HttpClient


class Heard(Fetch):
    """The headers and the content of a success; `pieces` says how often something came."""

    def __init__(self) -> None:
        super().__init__("a test", allowance=Allowance(10**9), deadline_s=3600.0, deadline_name="a test")
        self.headers: Mapping[str, str] | None = None
        self.pieces = 0

    def begin(self, headers: Mapping[str, str]) -> None:
        assert self.headers is None, "an answer begins once"
        self.headers = dict(headers)

    def take(self, chunk: bytes) -> None:
        self.pieces += 1
        super().take(chunk)


def content_of(client: HttpClient, url: str) -> bytes:
    """Return the content at `url`, which must be a success."""
    heard = Heard()
    assert client.get(url, {}, heard).is_success
    return heard.content()
