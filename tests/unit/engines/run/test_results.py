"""Results have one shape, which the messages on the topics read as well."""

from __future__ import annotations

import json

from engines.run.results import STAGES, no_time, result_of
from handlers.errors import Busy
from streams.messages import decode_result, encode

ABOUT = {"task": "asr", "engine": "e", "model_name": "m", "processing_s": 0.5, "id": "1"}


def test_a_success_and_a_failure_have_the_same_fields() -> None:
    success = result_of({"text": "x"}, **ABOUT).as_dict()  # type: ignore[arg-type]
    failure = result_of(Busy("later"), **ABOUT).as_dict()  # type: ignore[arg-type]
    assert list(success) == list(failure)
    assert success["result"] == {"text": "x", "metadata": {}}
    assert failure["error"] == {"code": "BUSY", "message": "later", "retryable": True}


def test_what_is_sent_is_what_is_read_and_what_a_call_returns() -> None:
    timings = no_time() | {"infer": 0.25}
    for result in (
        result_of({"text": "x"}, timings=timings, **ABOUT),  # type: ignore[arg-type]
        result_of(Busy("later"), timings=timings, **ABOUT),  # type: ignore[arg-type]
    ):
        assert decode_result(encode(result)) == result
        assert json.loads(encode(result)) == result.as_dict()
        assert result.timings == {**dict.fromkeys(STAGES, 0.0), "infer": 0.25}


def test_a_result_without_timings_says_that_every_stage_took_no_time() -> None:
    result = result_of(Busy("later"), **ABOUT)  # type: ignore[arg-type]
    assert result.timings == dict.fromkeys(STAGES, 0.0)
