"""Every task on every engine: what is answered, and what is refused with words that help."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from engines.inference import InferenceManager
from handlers.errors import InvalidInput, MediaTooLarge
from handlers.media import Media
from handlers.options.spec import OptionSpec
from handlers.registry import HandlerRegistry
from handlers.settings import MediaSettings
from tests.contract.bench import BAD_MEDIA, assert_answered, assert_refused
from tests.contract.cases import CASES, Case

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_case_with_media = pytest.mark.parametrize("case", [case for case in CASES if case.media], ids=str)
every_case_with_text = pytest.mark.parametrize("case", [case for case in CASES if case.texts], ids=str)

UNICODE = "Grüße, 世界! ｆｕｌｌ e\u0301 \U0001f642\u200d\U0001f468 עברית \u0000 ok"
LONE_SURROGATE = "half of a pair: \ud83d"


def spoiled_media(case: Case, name: str, content: bytes) -> dict[str, Any]:
    """Return the request with `content` as the last of the media in that field."""
    value = case.data()[name]
    return case.with_data(name, [*value[:-1], content] if isinstance(value, list) else content)


def as_addresses(value: Any) -> Any:
    """Return bytes, and the bytes in a list, as data: URIs."""
    if isinstance(value, list):
        return [as_addresses(one) for one in value]
    return "data:;base64," + base64.b64encode(value).decode() if isinstance(value, bytes) else value


def last_bytes(value: Any) -> bytes:
    content: bytes = value[-1] if isinstance(value, list) else value
    return content


@every_case
def test_a_valid_request_gets_the_right_answer(manager: InferenceManager, case: Case) -> None:
    result = manager.infer(**case.request(), id="a-1", metadata={"batch": "7/ü"})
    assert_answered(case, result)
    assert (result["id"], result["metadata"]) == ("a-1", {"batch": "7/ü"})


@every_case
def test_the_same_request_gets_the_same_answer(manager: InferenceManager, case: Case) -> None:
    first, second = (assert_answered(case, manager.infer(**case.request())) for _ in range(2))
    for output in (first, second):
        output.pop("metadata")
    assert first == second


@every_case_with_media
def test_media_in_the_request_itself_are_as_good_as_bytes(manager: InferenceManager, case: Case) -> None:
    data = {name: as_addresses(value) for name, value in case.data().items()}
    assert_answered(case, manager.infer(**case.request(data=data)))


@every_case
def test_each_missing_field_is_named(manager: InferenceManager, case: Case) -> None:
    for name in case.data().keys() - set(case.optional):
        for data in (
            {key: value for key, value in case.data().items() if key != name},
            {**case.data(), name: None},
        ):
            assert_refused(manager.infer(**case.request(data=data)), {"INVALID_INPUT"}, names=f"data.{name}")
    assert_refused(manager.infer(**case.request(data={})), {"INVALID_INPUT"}, names="got nothing")


@every_case
@pytest.mark.parametrize("data", [None, "text", 42, [1]], ids=repr)
def test_data_that_is_no_object_is_refused(manager: InferenceManager, case: Case, data: Any) -> None:
    assert_refused(manager.infer(**case.request(data=data)), {"INVALID_REQUEST"}, names="data")


@every_case
def test_a_field_of_the_wrong_kind_is_named(manager: InferenceManager, case: Case) -> None:
    for name, values in case.wrong.items():
        for value in values:
            result = manager.infer(**case.with_data(name, value))
            assert_refused(result, BAD_MEDIA, names=f"data.{name}")


@every_case_with_media
def test_empty_media_are_refused(manager: InferenceManager, case: Case) -> None:
    for name in case.media:
        for empty in (b"", "data:,", Media(b"", "s3://bucket/empty"), np.zeros(0, np.float32)):
            result = manager.infer(**spoiled_media(case, name, empty))  # type: ignore[arg-type]
            assert_refused(result, BAD_MEDIA, names=f"data.{name}")


@every_case_with_media
def test_media_cut_short_or_of_another_kind_are_refused(manager: InferenceManager, case: Case) -> None:
    for name in case.media:
        content = last_bytes(case.data()[name])
        noise = np.random.default_rng(0).bytes(4096)
        for bad in (
            content[: len(content) // 2],
            content[:20],
            noise,
            b"some text",
            b"<html></html>",
            b"PK\3\4",
        ):
            result = manager.infer(**spoiled_media(case, name, bad))
            assert_refused(result, {"MEDIA_CORRUPT"}, names=f"data.{name}")


@every_case_with_media
def test_media_beyond_the_limits_are_refused(case: Case) -> None:
    handlers = HandlerRegistry()
    handlers.configure(MediaSettings(**case.limits))
    setting = "|".join(f"media.{name}" for name in case.limits)
    with pytest.raises((MediaTooLarge, InvalidInput), match=setting):
        handlers.get(case.task).preprocess(case.data(), {})


@every_case
def test_an_unknown_option_is_named_with_the_nearest_known_one(manager: InferenceManager, case: Case) -> None:
    strange = manager.infer(**case.request(options={"отступ🙂": 1}))
    assert_refused(strange, {"INVALID_OPTION"}, names="options.отступ🙂")
    known = next(iter(options_of(manager, case)))
    near = manager.infer(**case.request(options={known[:-1]: 1}))
    assert_refused(near, {"INVALID_OPTION"}, names=known)


def options_of(manager: InferenceManager, case: Case) -> dict[str, OptionSpec]:
    """Return the options that the case's task takes on its engine."""
    options = manager.handlers.get(case.task).options
    assert options
    return {name: spec for name, spec in options.items() if not spec.engines or case.engine in spec.engines}


@every_case
def test_option_values_out_of_range_or_of_the_wrong_type_are_refused(manager: InferenceManager, case: Case) -> None:
    for name, spec in options_of(manager, case).items():
        wrong: list[Any] = [{"": 0} if spec.kind != "format" else "yaml", ["a", 1], ""]
        wrong += [limit for limit in (None if spec.minimum is None else spec.minimum - 9,) if limit is not None]
        wrong += [limit for limit in (None if spec.maximum is None else spec.maximum * 2 + 1,) if limit is not None]
        wrong += [float("nan"), float("inf")]
        for value in wrong:
            result = manager.infer(**case.request(options={name: value}))
            message = assert_refused(result, {"INVALID_OPTION"}, names=f"options.{name} is")
            assert spec.allowed in message or (spec.bound and f"{spec.bound} allows at most" in message)


@every_case
def test_another_engines_options_are_refused(manager: InferenceManager, case: Case) -> None:
    mine = options_of(manager, case)
    for name, spec in (manager.handlers.get(case.task).options or {}).items():
        if name not in mine:
            value = 2 if spec.kind in ("integer", "number") else spec.choices[0] if spec.choices else "5m"
            result = manager.infer(**case.request(options={name: value}))
            assert_refused(result, {"INVALID_OPTION"}, names=f"options.{name}")


LEGAL: dict[str, Any] = {
    "boolean": False,
    "string": "en",
    "strings": ["\n\n"],
    "duration": "5m",
    "format": "json",
}


@every_case
def test_every_option_is_taken_or_refused_by_name(manager: InferenceManager, case: Case) -> None:
    """An option that the table allows never breaks the engine."""
    specs = options_of(manager, case)
    short = {"max_new_tokens": 2}
    if not manager.infer(**case.request(options={**case.options, **short}))["success"]:
        short = {}
    for name, spec in specs.items():
        legal = LEGAL[spec.kind] if spec.kind in LEGAL else max(1, int(spec.minimum or 0))
        for value in spec.choices or [legal]:
            result = manager.infer(**case.request(options={**case.options, **short, name: value}))
            if not result["success"]:
                assert_refused(result, {"INVALID_OPTION"}, names=name)


@every_case_with_text
def test_any_unicode_is_taken_as_it_is(manager: InferenceManager, case: Case) -> None:
    for name in case.texts:
        result = manager.infer(**case.with_data(name, UNICODE), id="ид-🙂", metadata={"ключ": UNICODE})
        assert result["success"], result["error"]
        assert (result["id"], result["metadata"]) == ("ид-🙂", {"ключ": UNICODE})
        if case.engine == "ollama" and not case.media:
            assert result["result"]["generated_text"] == f"You said: {UNICODE}"


@every_case_with_text
def test_text_that_is_no_unicode_is_refused(manager: InferenceManager, case: Case) -> None:
    for name in case.texts:
        result = manager.infer(**case.with_data(name, LONE_SURROGATE))
        assert_refused(result, {"INVALID_INPUT"}, names=f"data.{name}")


@every_case_with_media
def test_media_may_come_from_addresses_of_any_unicode(manager: InferenceManager, case: Case) -> None:
    named = {
        name: Media(value, "s3://bucket/Übung 世界/🙂.bin")
        if name in case.media and isinstance(value, bytes)
        else value
        for name, value in case.data().items()
    }
    assert_answered(case, manager.infer(**case.request(data=named)))
    name = case.media[0]
    bad = spoiled_media(case, name, Media(b"noise", "s3://bucket/Übung 世界/🙂.bin"))  # type: ignore[arg-type]
    assert_refused(manager.infer(**bad), {"MEDIA_CORRUPT"}, names="s3://bucket/Übung 世界/🙂.bin")


@every_case
@pytest.mark.parametrize("field", ["task", "engine", "model_name"])
def test_names_that_are_missing_wrong_or_unknown_are_refused(manager: InferenceManager, case: Case, field: str) -> None:
    left_out = () if field == "engine" else ("",)
    for value in (None, *left_out, 42, ["a"], {"a": 1}):
        assert_refused(manager.infer(**case.request(**{field: value})), {"INVALID_REQUEST"}, names=field)
    unknown = manager.infer(**case.request(**{field: "неизвестно🙂"}))
    assert_refused(unknown, {f"UNKNOWN_{field.removesuffix('_name').upper()}"}, names="неизвестно🙂")


@every_case
def test_a_model_of_another_task_is_a_mismatch_that_says_so(manager: InferenceManager, case: Case) -> None:
    other = next(other for other in CASES if other.engine == case.engine and other.task != case.task)
    result = manager.infer(**case.request(model_name=other.name))
    assert_refused(result, {"MODEL_MISMATCH"}, names=f"task={other.task}")
