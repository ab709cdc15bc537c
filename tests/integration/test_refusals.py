"""Every kind of bad request gets one clear answer from a running worker, and the worker goes on."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from streams.client import InferenceClient
from streams.messages import Request, Result, decode_result
from tests.integration.worker_process import Site

TEXT: dict[str, Any] = {
    "task": "text-generation",
    "engine": "transformers",
    "model_name": "smollm2-135m-instruct",
}
SPEECH: dict[str, Any] = {"task": "asr", "engine": "transformers", "model_name": "whisper-tiny.en"}


async def answer(site: Site, task: str, value: dict[str, Any]) -> Result:
    """Send `value` as it is, valid or not, and return the one result it gets."""
    identity = value.setdefault("id", uuid.uuid4().hex)
    async with InferenceClient(site.settings.kafka, tasks=[]) as client:
        await client.send_bytes(task, json.dumps(value).encode())
    return (await site.results(task, [identity]))[identity]


async def refused(site: Site, task: str, value: dict[str, Any], code: str, *named: str) -> None:
    result = await answer(site, task, value)
    assert not result.success
    assert result.error is not None
    assert result.error.code == code, result.error
    for part in named:
        assert part in result.error.message, result.error.message


async def dead_letter(site: Site, task: str, value: bytes | None) -> dict[str, bytes]:
    """Send bytes that no id can be read from and return the headers of the dead letter they become."""
    key = uuid.uuid4().hex.encode()
    async with InferenceClient(site.settings.kafka, tasks=[]) as client:
        await client.send_bytes(task, value, key=key, headers=[("mine", b"kept")])
    topic = site.topics.dead_letters(task)
    records = await site.read([topic], lambda found: any(record.key == key for record in found))
    (record,) = (record for record in records if record.key == key)
    assert record.value == value
    headers = dict(record.headers)
    assert headers["mine"] == b"kept"
    assert headers["__dlq.errors.topic"] == site.topics.requests(task).encode()
    return headers


@pytest.mark.parametrize("value", [b"\xff\xfe no json", b"{", b"[1]", b"17"])
async def test_undecodable_bytes_become_a_dead_letter(worker_site: Site, value: bytes) -> None:
    headers = await dead_letter(worker_site, "asr", value)
    assert b"JSON" in headers["__dlq.errors.message"]


async def test_a_message_too_deep_to_be_read_becomes_a_dead_letter(worker_site: Site) -> None:
    value = b'{"bogus": 1, "metadata": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}"
    headers = await dead_letter(worker_site, "asr", value)
    assert b"nested too deeply" in headers["__dlq.errors.message"]


@pytest.mark.parametrize("value", [b"", None])
async def test_an_empty_value_becomes_a_dead_letter(worker_site: Site, value: bytes | None) -> None:
    headers = await dead_letter(worker_site, "text-generation", value)
    assert b"empty" in headers["__dlq.errors.message"]


async def test_json_of_the_wrong_shape_names_the_field(worker_site: Site) -> None:
    await refused(worker_site, "asr", {**SPEECH, "data": "a.wav"}, "INVALID_REQUEST", "data", "object")
    await refused(worker_site, "asr", {**SPEECH}, "INVALID_REQUEST", "data")
    await refused(worker_site, "asr", {**SPEECH, "data": {}, "dta": 1}, "INVALID_REQUEST", "dta")


async def test_a_task_on_the_wrong_topic_is_named(worker_site: Site) -> None:
    value = {**SPEECH, "task": "telepathy", "data": {"audio": "s3://media/a.wav"}}
    await refused(worker_site, "asr", value, "INVALID_REQUEST", "telepathy", "asr")


async def test_an_unknown_engine_is_named_with_those_there_are(worker_site: Site) -> None:
    value = {**TEXT, "engine": "steam", "data": {"inputs": "hi"}}
    await refused(worker_site, "text-generation", value, "UNKNOWN_ENGINE", "steam", "transformers")


async def test_an_unknown_model_is_named(worker_site: Site) -> None:
    value = {**TEXT, "model_name": "smollm3", "data": {"inputs": "hi"}}
    await refused(worker_site, "text-generation", value, "UNKNOWN_MODEL", "smollm3")


async def test_a_model_of_another_task_is_refused_by_its_tags(worker_site: Site) -> None:
    value = {**TEXT, "model_name": "whisper-tiny.en", "data": {"inputs": "hi"}}
    await refused(worker_site, "text-generation", value, "MODEL_MISMATCH", "whisper-tiny.en", "asr")


async def test_an_unknown_option_is_named_with_the_nearest_known_one(worker_site: Site) -> None:
    value = {**TEXT, "data": {"inputs": "hi"}, "options": {"max_new_token": 5}}
    await refused(worker_site, "text-generation", value, "INVALID_OPTION", "max_new_token", "max_new_tokens")


async def test_an_option_out_of_range_is_named_with_its_range(worker_site: Site) -> None:
    value = {**TEXT, "data": {"inputs": "hi"}, "options": {"temperature": 9}}
    await refused(worker_site, "text-generation", value, "INVALID_OPTION", "temperature", "9", "2")


async def test_missing_data_fields_are_named(worker_site: Site) -> None:
    await refused(worker_site, "text-generation", {**TEXT, "data": {}}, "INVALID_INPUT", "inputs", "messages")
    await refused(worker_site, "asr", {**SPEECH, "data": {"sound": "x"}}, "INVALID_INPUT", "data.audio")


async def test_a_data_field_that_the_task_does_not_read_is_named(worker_site: Site) -> None:
    value = {**TEXT, "data": {"inputs": "hi", "max_new_tokens": 5}}
    await refused(worker_site, "text-generation", value, "INVALID_INPUT", "data.max_new_tokens", "options")


async def test_corrupt_media_is_named_with_its_field(worker_site: Site) -> None:
    uri = "data:audio/wav;base64," + base64.b64encode(b"RIFF this is no sound at all").decode()
    await refused(worker_site, "asr", {**SPEECH, "data": {"audio": uri}}, "MEDIA_CORRUPT", "audio")


async def test_a_missing_object_is_named_with_its_bucket_and_key(worker_site: Site) -> None:
    value = {**SPEECH, "data": {"audio": "s3://media/nowhere.wav"}}
    await refused(worker_site, "asr", value, "MEDIA_NOT_FOUND", "data.audio", "media", "nowhere.wav")


async def test_a_bucket_without_permission_is_named(worker_site: Site, forbidden_object: str) -> None:
    value = {**SPEECH, "data": {"audio": forbidden_object}}
    await refused(worker_site, "asr", value, "MEDIA_FORBIDDEN", "data.audio", forbidden_object)


async def test_an_object_of_a_gigabyte_is_refused_by_its_size(worker_site: Site, huge_object: str) -> None:
    value = {**SPEECH, "data": {"audio": huge_object}}
    await refused(worker_site, "asr", value, "MEDIA_TOO_LARGE", "data.audio", "media.max_bytes")


async def test_a_local_path_is_refused_by_a_worker(worker_site: Site) -> None:
    await refused(worker_site, "asr", {**SPEECH, "data": {"audio": "/etc/passwd"}}, "MEDIA_FORBIDDEN", "allowed_roots")


async def test_a_deadline_that_has_passed_is_told_without_inference(worker_site: Site) -> None:
    value = {**TEXT, "data": {"inputs": "hi"}, "deadline": "2020-01-01T00:00:00Z"}
    result = await answer(worker_site, "text-generation", value)
    assert result.error is not None
    assert result.error.code == "DEADLINE_EXCEEDED"
    assert result.timings["infer"] == 0.0


async def test_a_reply_topic_that_is_not_allowed_is_refused(worker_site: Site) -> None:
    value = {**TEXT, "data": {"inputs": "hi"}, "reply_to": "somewhere"}
    await refused(worker_site, "text-generation", value, "INVALID_REQUEST", "reply_to", "somewhere")


async def test_metadata_that_cannot_be_read_do_not_cost_the_caller_its_id(worker_site: Site) -> None:
    identity = uuid.uuid4().hex
    value = json.dumps({**TEXT, "id": identity, "data": {"inputs": "hi"}})[:-1] + ', "metadata": {"a": 1e400}}'
    async with InferenceClient(worker_site.settings.kafka, tasks=[]) as client:
        await client.send_bytes("text-generation", value.encode())
    result = (await worker_site.results("text-generation", [identity]))[identity]
    assert result.error is not None
    assert result.error.code == "INVALID_REQUEST"


async def test_after_all_of_that_the_worker_still_answers(worker_site: Site) -> None:
    value = {**TEXT, "data": {"inputs": "What is the capital of France?"}, "options": {"max_new_tokens": 16}}
    result = await answer(worker_site, "text-generation", value)
    assert result.success
    assert result.result is not None
    assert "Paris" in result.result["generated_text"]


async def test_an_allowed_reply_topic_gets_the_result_under_the_key_of_its_request(worker_site: Site) -> None:
    topic = f"{worker_site.settings.kafka.topic_prefix}.replies"
    admin = AIOKafkaAdminClient(bootstrap_servers=worker_site.settings.kafka.bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1)])
    finally:
        await admin.close()
    request = Request(**TEXT, data={"inputs": "hi"}, options={"max_new_tokens": 2}, id=uuid.uuid4().hex, reply_to=topic)
    async with InferenceClient(worker_site.settings.kafka, tasks=[]) as client:
        await client.send(request, key=b"mine")
    (record,) = await worker_site.read([topic], lambda found: bool(found))
    result = decode_result(record.value)
    assert (record.key, result.id, result.success) == (b"mine", request.id, True)
    elsewhere = await worker_site.everything(worker_site.topics.results("text-generation"))
    assert request.id not in {json.loads(other.value)["id"] for other in elsewhere}


async def test_one_request_gives_one_event_of_its_outcome(worker_site: Site) -> None:
    request = Request(**TEXT, data={"inputs": "hi"}, options={"max_new_tokens": 2}, id=uuid.uuid4().hex)
    async with InferenceClient(worker_site.settings.kafka, tasks=["text-generation"]) as client:
        await client.infer(request)
    events = await worker_site.read(
        [worker_site.topics.events],
        lambda found: any(json.loads(record.value or b"{}").get("id") == request.id for record in found),
    )
    mine = [json.loads(record.value or b"{}") for record in events]
    mine = [event for event in mine if event.get("id") == request.id]
    assert [(event["kind"], event["success"]) for event in mine] == [("request", True)]
