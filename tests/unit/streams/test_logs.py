"""Log lines: one format for ours and the libraries', the request in each, no secret in any."""

from __future__ import annotations

import io
import json
import logging
import threading
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from engines.config.settings_tree import leaves
from engines.log_context import RequestName, shared_task, turn, working_on
from streams.logs import QUIET_LIBRARIES, SECRET_KEYS, configure_logging
from streams.settings import LoggingSettings, S3Settings, Settings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def named(identity: str, traceparent: str | None = None) -> RequestName:
    return RequestName(identity, "asr", "whisper/3", traceparent)


def configured(**settings: Any) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(LoggingSettings(**settings), stream)
    return stream


def test_where_nobody_watches_each_line_is_json_with_time_level_and_logger() -> None:
    stream = configured()
    structlog.get_logger("streams.x").info("worker_started", tasks=["asr"])
    (line,) = lines(stream)
    assert (line["message"], line["level"], line["logger"]) == ("worker_started", "info", "streams.x")
    assert line["tasks"] == ["asr"]
    assert line["timestamp"].endswith("Z")


def test_on_a_terminal_lines_are_for_people() -> None:
    stream = Terminal()
    configure_logging(LoggingSettings(), stream)
    structlog.get_logger("x").info("worker_started")
    assert "worker_started" in stream.getvalue()
    with pytest.raises(json.JSONDecodeError):
        json.loads(stream.getvalue())


def test_lines_of_libraries_look_the_same() -> None:
    stream = configured()
    logging.getLogger("faust.app").warning("lag of %d", 3)
    (line,) = lines(stream)
    assert (line["message"], line["level"], line["logger"]) == ("lag of 3", "warning", "faust.app")


def test_chatty_libraries_are_heard_from_warning_on_even_at_level_debug() -> None:
    stream = configured(level="DEBUG")
    for name in QUIET_LIBRARIES:
        logging.getLogger(f"{name}.sub").info("request sent")
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)
    logging.getLogger("aiokafka").warning("broker lost")
    structlog.get_logger("x").debug("detail")
    assert [line["message"] for line in lines(stream)] == ["broker lost", "detail"]


def test_lines_below_the_level_are_dropped() -> None:
    stream = configured(level="WARNING")
    structlog.get_logger("x").info("quiet")
    assert stream.getvalue() == ""


def test_the_request_is_in_every_line_inside_and_none_outside() -> None:
    stream = configured()
    with working_on([named("r1", "00-a-b-01")]):
        structlog.get_logger("x").info("ours")
        logging.getLogger("y").warning("theirs")
    structlog.get_logger("x").info("after")
    ours, theirs, after = lines(stream)
    for line in (ours, theirs):
        assert (line["request_id"], line["task"], line["model"]) == ("r1", "asr", "whisper/3")
        assert line["traceparent"] == "00-a-b-01"
    assert "request_id" not in after


def test_the_request_of_a_turn_is_in_the_lines_of_its_thread_and_of_no_other() -> None:
    stream = configured()
    turn.request = named("r1")
    try:
        structlog.get_logger("x").info("ours")
        other = threading.Thread(target=lambda: structlog.get_logger("x").info("other"))
        other.start()
        other.join()
    finally:
        turn.request = None
    structlog.get_logger("x").info("after")
    ours, other_thread, after = lines(stream)
    assert (ours["request_id"], ours["task"], ours["model"]) == ("r1", "asr", "whisper/3")
    assert "request_id" not in other_thread
    assert "request_id" not in after


def test_a_line_about_a_batch_names_its_requests() -> None:
    stream = configured()
    with working_on([named(f"r{number}") for number in range(12)]):
        structlog.get_logger("x").info("ours")
        structlog.get_logger("x").info("about one", request_id="r3")
    of_batch, of_one = lines(stream)
    assert of_batch["request_ids"] == [f"r{number}" for number in range(10)]
    assert (of_batch["requests"], of_batch["task"], "request_id" in of_batch) == (12, "asr", False)
    assert (of_one["request_id"], "request_ids" in of_one) == ("r3", False)


async def test_a_task_that_works_for_many_does_not_name_the_request_that_started_it() -> None:
    stream = configured()

    async def work() -> None:
        structlog.get_logger("x").info("for many")

    with working_on([named("r1")]):
        await shared_task(work(), "shared")
    assert "request_id" not in lines(stream)[0]


def test_every_secret_setting_is_among_the_masked_names() -> None:
    secret = {key.partition(".")[2] for key, leaf in leaves(Settings).items() if leaf.secret}
    assert secret
    assert secret <= SECRET_KEYS


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_are_masked_at_any_depth_and_in_addresses(form: str) -> None:
    stream = configured(format=form)
    log = structlog.get_logger("x")
    log.info("a", password="hunter2", given=SecretStr("hunter2"), nested={"list": [{"Token": "hunter2"}]})
    log.warning("calling http://me:hunter2@host/", url="https://me:hunter2@host/x")
    logging.getLogger("y").warning("calling %s", "http://me:hunter2@host/", extra={"api_key": "hunter2"})
    log.info("s3", settings=S3Settings(access_key="me", secret_key=SecretStr("hunter2")))
    assert stream.getvalue().count("********") >= 6
    assert "hunter2" not in stream.getvalue()


def test_names_that_only_look_like_secrets_are_shown() -> None:
    stream = configured()
    structlog.get_logger("x").info("done", key="k1", prompt_tokens=7, model_key="m/1")
    (line,) = lines(stream)
    assert (line["key"], line["prompt_tokens"], line["model_key"]) == ("k1", 7, "m/1")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_stack_trace_shows_no_local_variable(form: str) -> None:
    stream = configured(format=form)
    local_secret = "".join(["hunt", "er2"])
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger("x").exception("failed")
    assert "ValueError: broken" in stream.getvalue()
    assert local_secret not in stream.getvalue()


def test_configuring_twice_logs_each_line_once() -> None:
    first, second = configured(), configured()
    structlog.get_logger("x").info("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1
