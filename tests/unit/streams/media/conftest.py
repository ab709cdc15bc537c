"""The web server that stands for stores and hosts in these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streams.media.http_get import HttpClient
from tests.unit.streams.media.web_server import WebServer, web_server


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture
def client() -> Iterator[HttpClient]:
    client = HttpClient(connect_timeout_s=5, read_timeout_s=20)
    yield client
    client.close()
