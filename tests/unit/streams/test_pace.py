"""Which handlers are taken for quick."""

from __future__ import annotations

from typing import Any

from handlers.base import BaseModelHandler
from streams.pace import Pace


class Handler(BaseModelHandler):
    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return data

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return result


class Another(Handler):
    pass


def after(*seconds: float) -> Pace:
    pace = Pace()
    for took_s in seconds:
        pace.took(Handler(), "preprocess", took_s)
    return pace


def test_a_handler_is_quick_until_it_proves_otherwise() -> None:
    assert after().is_quick(Handler(), "preprocess")
    assert after(*[0.0001] * 100).is_quick(Handler(), "preprocess")


def test_a_long_call_now_and_then_is_no_proof_since_the_machine_may_have_stopped_the_process() -> None:
    assert after(3.0, 0.0001, 3.0, 3.0, 0.0001, 3.0).is_quick(Handler(), "preprocess")


def test_three_long_calls_in_a_row_are_proof_against_that_stage_of_that_handler() -> None:
    pace = after(0.0001, 0.1, 0.1, 0.1)
    assert not pace.is_quick(Handler(), "preprocess")
    assert pace.is_quick(Handler(), "postprocess")
    assert pace.is_quick(Another(), "preprocess")


def test_proof_stands_whatever_comes_later() -> None:
    assert not after(0.1, 0.1, 0.1, 0.0001).is_quick(Handler(), "preprocess")
