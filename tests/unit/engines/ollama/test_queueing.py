"""Requests side by side: how many, who is next, and what becomes of those that are cancelled."""

from __future__ import annotations

import math
import time
from concurrent.futures import CancelledError
from typing import Any

import pytest

from engines.base import told_of_waiting
from engines.ollama.engine import OllamaEngine
from tests.processes import wait_until
from tests.unit.engines.ollama import fake_faults as faults
from tests.unit.engines.ollama.engines import GENERATE, HELLO, engine_for
from tests.unit.engines.ollama.fake_faults import Fault
from tests.unit.engines.ollama.fake_ollama import FakeOllama


@pytest.mark.parametrize("when", [faults.silent, faults.stalled])
def test_cancelling_the_future_closes_the_connection_and_stops_the_work(
    fake: FakeOllama, engine: OllamaEngine, model: Any, when: Fault
) -> None:
    fake.fail(GENERATE, when)
    future = engine.submit(model, HELLO, {})
    assert wait_until(lambda: fake.running == 1)
    assert fake.disconnects == 0
    assert future.cancel()
    assert wait_until(lambda: fake.disconnects == 1)
    assert wait_until(lambda: fake.running == 0)
    assert engine.infer(model, HELLO, {})["generated_text"] == "You said: hello there"


def test_a_request_cancelled_in_the_queue_is_never_sent(fake: FakeOllama, engine: OllamaEngine, model: Any) -> None:
    fake.fail(GENERATE, *[faults.silent] * 3)
    running = [engine.submit(model, HELLO, {}) for _ in range(3)]
    assert wait_until(lambda: fake.running == 3)
    queued = engine.submit(model, {"inputs": "never"}, {})
    assert queued.cancel()
    fake.release()
    for future in running:
        future.result(20)
    engine.infer(model, HELLO, {})
    assert all(body["prompt"] != "never" for body in fake.bodies(GENERATE))


def test_no_more_requests_are_under_way_than_the_setting_says(
    fake: FakeOllama, engine: OllamaEngine, model: Any
) -> None:
    fake.fail(GENERATE, *[faults.silent] * 10)
    futures = [engine.submit(model, {"inputs": str(number)}, {}) for number in range(10)]
    assert wait_until(lambda: fake.running == 3)
    fake.release()
    answers = [future.result(20)["generated_text"] for future in futures]
    assert answers == [f"You said: {number}" for number in range(10)]
    assert fake.most_running == 3


def test_a_request_counts_as_begun_when_it_has_a_slot(fake: FakeOllama) -> None:
    begun: list[str] = []
    with engine_for(fake.url, max_concurrent=1) as engine:
        model = engine.load_model("echo")
        fake.fail(GENERATE, faults.silent)
        answers = []
        for name in ("first", "second"):
            with told_of_waiting(lambda name=name: lambda: begun.append(name)):  # type: ignore[misc]
                answers.append(engine.submit(model, HELLO, {}))
        assert wait_until(lambda: fake.running == 1)
        assert begun == ["first"]
        fake.release()
        for answer in answers:
            answer.result(20)
        assert begun == ["first", "second"]


def test_the_most_urgent_of_those_who_wait_is_sent_next(fake: FakeOllama, engine: OllamaEngine, model: Any) -> None:
    fake.fail(GENERATE, *[faults.silent] * 3)
    running = [engine.submit(model, HELLO, {}) for _ in range(3)]
    assert wait_until(lambda: fake.running == 3)
    waiting = [
        engine.submit(model, {"inputs": text}, {}, urgency=urgency)
        for text, urgency in [
            ("last", (-1, math.inf)),
            ("third", (-5, math.inf)),
            ("second", (-5, 10.0)),
            ("first", (-9, math.inf)),
        ]
    ]
    running[0].cancel()  # one slot, so that the order shows
    waiting[3].result(20)
    fake.release()
    for future in (*running[1:], *waiting):
        future.result(20)
    assert fake.bodies(GENERATE)[3]["prompt"] == "first"


def test_cancelling_at_once_leaves_nothing_behind(fake: FakeOllama, engine: OllamaEngine, model: Any) -> None:
    futures = [engine.submit(model, HELLO, {}) for _ in range(50)]
    cancelled = [future.cancel() for future in futures]
    assert any(cancelled)
    for future, was_cancelled in zip(futures, cancelled, strict=True):
        if was_cancelled:
            with pytest.raises(CancelledError):
                future.result(20)
    assert engine.infer(model, HELLO, {})["generated_text"] == "You said: hello there"
    assert wait_until(lambda: fake.running == 0)


def test_a_silent_server_gives_no_sign_of_life_until_it_is_asked_nothing_more(fake: FakeOllama) -> None:
    with engine_for(fake.url) as engine:
        model = engine.load_model("echo")
        fake.fail(GENERATE, faults.silent)
        answer = engine.submit(model, HELLO, {})
        assert wait_until(lambda: fake.running == 1)
        silent_since = engine.last_sign(model)
        time.sleep(0.02)
        assert engine.last_sign(model) == silent_since
        answer.cancel()
        assert engine.last_sign(model) > silent_since


def test_every_piece_of_an_answer_is_a_sign_of_life(fake: FakeOllama) -> None:
    signs: list[float] = []
    with engine_for(fake.url) as engine:
        model = engine.load_model("echo")
        engine.submit(model, HELLO, {}, lambda text: signs.append(engine.last_sign(model))).result(20)
    assert len(signs) > 1
    assert signs == sorted(signs)
    assert signs[0] < signs[-1]
