"""What the demo takes for right, and how it shows what came back."""

from __future__ import annotations

import io
from collections import Counter

import pytest
from rich.console import Console

from examples.demo.cases import Case, planned
from examples.demo.media import drawings, letter, recordings
from examples.demo.report import shortened, show
from examples.demo.sending import Outcome
from handlers import model_registry
from streams.messages import Request
from streams.pipeline.decoding import decode_request


def case(task: str, expected: str = "", refusal: str = "") -> Case:
    request = Request(task=task, engine="transformers", model_name="a-model", data={}, id="1")
    return Case(request, "an input", expected, refusal)


def shown(cases: list[Case], outcomes: list[Outcome | None]) -> tuple[int, list[str]]:
    file = io.StringIO()
    status = show(Console(file=file, width=100), cases, outcomes)
    return status, file.getvalue().splitlines()


def test_the_plan_asks_every_task_of_both_engines_and_has_four_refusals() -> None:
    plan = planned("media")
    groups = Counter(case.group for case in plan.cases)
    assert {task for task, _ in groups} == set(model_registry.tasks())
    assert {engine for _, engine in groups} == {"transformers", "ollama"}
    assert sum(bool(case.refusal) for case in plan.cases) == 4
    assert len(plan.cases) == 40
    assert {case.way for case in plan.cases} == {"kafka", "http", "python"}


def test_every_request_of_the_plan_has_an_id_of_its_own_and_its_media_on_s3() -> None:
    plan = planned("media")
    sent = [case for case in plan.cases if case.raw is None]
    assert len({case.request.id for case in sent}) == len(sent)
    for one in sent:
        assert decode_request(one.value) == one.request
        for value in one.request.data.values():
            if isinstance(value, str) and value.startswith("s3://media/"):
                assert (value.removeprefix("s3://media/") in plan.files) == (one.refusal != "MEDIA_NOT_FOUND")


def test_media_are_the_same_each_time() -> None:
    assert drawings() == drawings()
    assert [one.shows for one in recordings()] == [one.shows for one in recordings()]
    assert letter().shows.startswith("Dear reader,")


@pytest.mark.parametrize(
    ("task", "expected", "output", "right"),
    [
        ("text-generation", "Paris", {"generated_text": "It is paris."}, True),
        ("text-generation", "Paris", {"generated_text": "It is Rome."}, False),
        ("asr", "he might", {"text": " He might."}, True),
        ("asr", "he might", {"text": "He might not."}, False),
        ("ocr", "Seat 42A", {"text": "Seat 42A"}, True),
        ("ocr", "Seat 42A", {"text": "Seat 42A."}, False),
        ("audio-classification", "tone", {"labels": [{"label": "tone"}, {"label": "noise"}]}, True),
        ("audio-classification", "tone", {"labels": [{"label": "noise"}, {"label": "tone"}]}, False),
        ("document-analysis", "a\n\nb", {"pages": [{"text": "a"}, {"text": "b"}]}, True),
        ("document-analysis", "a\n\nb", {"pages": [{"text": "a"}]}, False),
    ],
)
def test_an_answer_is_right_by_the_measure_of_its_task(
    task: str, expected: str, output: dict[str, object], right: bool
) -> None:
    assert (case(task, expected).problem_of_answer(output) is None) == right


def test_a_refusal_must_have_its_code_and_an_answer_must_be_no_error() -> None:
    refused = case("asr", refusal="MEDIA_CORRUPT")
    assert refused.problem_of_error("MEDIA_CORRUPT", "why") is None
    assert refused.problem_of_error("BUSY", "why") == "expected MEDIA_CORRUPT, got BUSY"
    assert refused.problem_of_answer({"text": "hm"}) == "expected MEDIA_CORRUPT, got an answer"
    assert case("asr", "he might").problem_of_error("BUSY", "why") == "BUSY: why"


def test_the_report_of_a_good_run_fits_100_columns_and_ends_with_its_line() -> None:
    cases = [case("asr", "he might"), case("ocr", refusal="MEDIA_CORRUPT")]
    outcomes: list[Outcome | None] = [
        Outcome(cases[0], "He might. " * 40, 1.234, None),
        Outcome(cases[1], "data.image is no image; send another", 0.1, None),
    ]
    status, lines = shown(cases, outcomes)
    assert status == 0
    assert lines[-1] == "demo: 1 of 1 answered, 1 of 1 refused cleanly, 0 lost"
    assert max(map(len, lines)) <= 100
    assert lines.index("asr · transformers · a-model") < lines.index("refused, as they must be")
    assert any("an input" in line and "1.2 s" in line for line in lines)


def test_what_is_wrong_or_lost_is_named_and_fails_the_run() -> None:
    cases = [case("asr", "he might"), case("ocr", "Seat 42A"), case("vlm", "two")]
    outcomes: list[Outcome | None] = [
        Outcome(cases[0], "He might.", 1.0, None),
        Outcome(cases[1], "Seat 43A", 1.0, "expected 'Seat 42A'"),
        None,
    ]
    status, lines = shown(cases, outcomes)
    assert status == 1
    assert lines[-3:] == [
        "✗ ocr, an input: expected 'Seat 42A'",
        "✗ vlm, an input: nothing came back",
        "demo: 1 of 3 answered, 0 of 0 refused cleanly, 1 lost",
    ]


def test_a_long_text_is_put_on_one_line_and_loses_its_middle() -> None:
    assert shortened("Platform 7\n\n  Seat  42A\n", 40) == "Platform 7 / Seat 42A"
    short = shortened("a" * 50 + "b" * 50, 21)
    assert short == "a" * 9 + " … " + "b" * 9
