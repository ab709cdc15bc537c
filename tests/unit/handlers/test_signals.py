"""An exception that a signal raised goes on; one that some code raised is the failure of a request."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from handlers.errors import InternalError, as_inference_error
from handlers.signals import is_of_a_signal


class Leave:
    """A handler that is an object."""

    def __call__(self, *_: Any) -> None:
        raise SystemExit(3)

    def method(self, *_: Any) -> None:
        raise SystemExit(3)


def leave(*_: Any) -> None:
    sys.exit(3)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def raised_by(call: Callable[[], Any]) -> BaseException:
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - it is what the test asks for
        return error
    raise AssertionError("nothing was raised")


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    for _ in range(1000):  # the handler runs between two steps of this thread
        pass


@pytest.mark.parametrize("handler", [leave, partial(leave, 1), Leave(), Leave().method])
def test_what_a_handler_of_a_signal_raises_goes_on(handler: Any) -> None:
    signal.signal(signal.SIGUSR1, handler)
    error = raised_by(lambda: send(signal.SIGUSR1))
    assert is_of_a_signal(error)
    with pytest.raises(SystemExit):
        as_inference_error(error)


def test_ctrl_c_goes_on() -> None:
    error = raised_by(lambda: send(signal.SIGINT))
    assert isinstance(error, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        as_inference_error(error)


def test_an_exit_that_some_code_raises_is_a_failure() -> None:
    signal.signal(signal.SIGUSR1, leave)
    assert isinstance(as_inference_error(raised_by(sys.exit)), InternalError)


def test_in_a_thread_an_interrupt_is_a_failure() -> None:
    found: list[bool] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    thread = threading.Thread(target=lambda: found.append(is_of_a_signal(raised_by(interrupt))))
    thread.start()
    thread.join()
    assert found == [False]
