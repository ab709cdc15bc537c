"""The web server that stands for stores and hosts in these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.streams.media.web_server import WebServer, web_server


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as server:
        yield server
