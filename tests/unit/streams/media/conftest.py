"""The web server that stands for stores and hosts in these tests."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import botocore.session
import pytest

from streams.media.http_get import HttpClient
from tests.unit.streams.media.web_server import WebServer, web_server


@pytest.fixture(scope="package", autouse=True)
def shared_service_models() -> Iterator[None]:
    """Let the stores of all tests share botocore's description of S3, a megabyte of JSON that each would parse."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            botocore.session,
            "create_loader",
            functools.cache(botocore.session.create_loader),
        )
        yield


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture
def client() -> Iterator[HttpClient]:
    client = HttpClient(connect_timeout_s=5, read_timeout_s=20)
    yield client
    client.close()
