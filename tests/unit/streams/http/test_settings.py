"""When a worker answers HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from streams.settings import HttpSettings


@pytest.mark.parametrize(
    ("given", "listens"),
    [
        ({}, False),
        ({"port": 0}, True),
        ({"port": 8080}, True),
        ({"enabled": True}, True),
        ({"enabled": False, "port": 8080}, False),
        ({"host": "0.0.0.0"}, False),
    ],
)
def test_a_worker_answers_http_only_where_it_is_told_to(given: dict[str, Any], listens: bool) -> None:
    assert HttpSettings(**given).listens is listens


def test_nobody_beyond_this_machine_is_answered_unless_told() -> None:
    assert HttpSettings(port=0).host == "127.0.0.1"
