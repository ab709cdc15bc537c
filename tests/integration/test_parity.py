"""The same request through Kafka, HTTP and Python: the same result, and the same refusal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local import LocalStack
from deploy.local.s3 import BUCKET
from deploy.models import CATALOGUE, prepare
from engines.config.settings import EngineSettings
from engines.inference import InferenceManager
from engines.models.model_manager import ModelManager
from examples.models.ollama import MODEL as OLLAMA_MODEL
from examples.models.ollama import Ollama
from handlers.registry import HandlerRegistry
from streams.client import InferenceClient
from streams.media import MediaFetcher
from streams.messages import Request, decode_event, decode_result, encode
from tests.contract import samples
from tests.integration.worker_process import PATIENCE_S, Record, Site, WorkerProcess
from tests.models.audio import WEIGHTS as AUDIO_WEIGHTS
from tests.models.video import WEIGHTS as VIDEO_WEIGHTS
from tests.models.vlm import WEIGHTS as VLM_WEIGHTS
from tests.unit.engines.tiny_models import save_llama

TIMES = {"load_s", "prompt_eval_s", "eval_s", "total_s"}
"""What metadata say of how long it took, which differs from one time to the next."""

UPLOADS: dict[str, Callable[[], bytes]] = {
    "drawing.png": samples.drawing,
    "speech.flac": samples.speech,
    "sign.png": samples.sign,
    "tone.wav": samples.rising_tone,
    "square.mp4": samples.square_to_the_left,
    "drawing.mp4": samples.drawing_on_video,
    "letter.pdf": samples.letter,
    "noise.bin": samples.noise,
}

CASES: dict[str, dict[str, Any]] = {
    "text-generation": {
        "task": "text-generation",
        "model_name": "parity-text",
        "data": {"messages": [{"role": "user", "content": "a b c"}]},
        "options": {"max_new_tokens": 8},
    },
    "text-generation, null for what is not given": {
        "task": "text-generation",
        "model_name": "parity-text",
        "data": {"inputs": "a b c"},
        "options": None,
        "metadata": None,
    },
    "text-generation, sampled": {
        "task": "text-generation",
        "model_name": "parity-text",
        "data": {"inputs": "x y z 世界 🙂"},
        "options": {"max_new_tokens": 8, "do_sample": True, "temperature": 0.9, "seed": 7},
    },
    "text-generation, ollama": {
        "task": "text-generation",
        "engine": "ollama",
        "model_name": "parity-ollama",
        "data": {"inputs": "What is the capital of France?"},
        "options": {"max_new_tokens": 8, "do_sample": False},
    },
    "vlm": {
        "task": "vlm",
        "model_name": "parity-vlm",
        "data": {"image": "drawing.png", "prompt": "Describe the image."},
    },
    "asr": {
        "task": "asr",
        "model_name": "parity-speech",
        "data": {"audio": "speech.flac"},
        "options": {"timestamps": "word"},
    },
    "ocr": {"task": "ocr", "model_name": "parity-reader", "data": {"image": "sign.png"}},
    "audio-classification": {
        "task": "audio-classification",
        "model_name": "parity-audio",
        "data": {"audio": "tone.wav"},
        "options": {"top_k": 3},
    },
    "video-analysis": {
        "task": "video-analysis",
        "model_name": "parity-video",
        "data": {"video": "square.mp4"},
    },
    "video-analysis, described": {
        "task": "video-analysis",
        "model_name": "parity-vlm",
        "data": {"video": "drawing.mp4", "prompt": "Describe the image."},
        "options": {"num_frames": 1},
    },
    "document-analysis": {
        "task": "document-analysis",
        "model_name": "parity-reader",
        "data": {"document": "letter.pdf"},
    },
    "document-analysis, a question": {
        "task": "document-analysis",
        "model_name": "parity-vlm",
        "data": {"document": "drawing.png", "question": "What color is the shape?"},
    },
}
REFUSED: dict[str, dict[str, Any]] = {
    "INVALID_INPUT": {"task": "ocr", "model_name": "parity-reader", "data": {"prompt": "Read."}},
    "INVALID_OPTION": {
        "task": "text-generation",
        "model_name": "parity-text",
        "data": {"inputs": "Hello"},
        "options": {"temperature": 99},
    },
    "UNKNOWN_ENGINE": {"task": "vlm", "engine": "steam", "model_name": "parity-vlm", "data": {}},
    "UNKNOWN_MODEL": {"task": "vlm", "model_name": "nobody", "data": {"image": "sign.png", "prompt": "Hi"}},
    "MODEL_MISMATCH": {"task": "asr", "model_name": "parity-vlm", "data": {"audio": "speech.flac"}},
    "MEDIA_NOT_FOUND": {"task": "ocr", "model_name": "parity-reader", "data": {"image": "not-there.png"}},
    "MEDIA_CORRUPT": {
        "task": "vlm",
        "model_name": "parity-vlm",
        "data": {"images": ["noise.bin"], "prompt": "Hi"},
    },
    "MEDIA_FORBIDDEN": {
        "task": "ocr",
        "model_name": "parity-reader",
        "data": {"image": "https://example.com/image.png"},
    },
}


Answers = dict[str, dict[str, dict[str, Any]]]
"""The result of each case, by name and way, as JSON has it."""


async def asked_three_ways(requests: dict[str, dict[str, Any]], site: Site, manager: InferenceManager) -> Answers:
    """Return what Kafka, HTTP and Python answer, one request after the other, as a batch may round otherwise."""
    url = await http_url(site)
    answers: Answers = {}
    async with (
        InferenceClient(site.settings.kafka, tasks={request["task"] for request in requests.values()}) as client,
        httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, trust_env=False) as http,
    ):
        for name, request in requests.items():
            answered = await client.infer(Request(**request), timeout_s=PATIENCE_S)
            posted = await http.post("/inference/infer", json=request)
            called = encode(await asyncio.to_thread(manager.infer, **request))
            decode_result(called)
            answers[name] = {
                "kafka": json.loads(encode(answered)),
                "http": posted.json(),
                "python": json.loads(called),
            }
    return answers


@pytest.fixture(scope="module")
def models(
    model_manager: ModelManager,
    whisper_tiny_path: Path,
    ollama_server: Ollama,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Every model of the cases, registered; the writer's weights are random, so that it is small."""
    for name, folder, task in (
        ("parity-text", save_llama(tmp_path_factory.mktemp("llama")), "text-generation"),
        ("parity-vlm", VLM_WEIGHTS, "vlm,video-analysis,document-analysis"),
        ("parity-speech", whisper_tiny_path, "asr"),
        ("parity-reader", prepare(CATALOGUE["pp-ocrv5-mobile"]), "ocr,document-analysis"),
        ("parity-audio", AUDIO_WEIGHTS, "audio-classification"),
        ("parity-video", VIDEO_WEIGHTS, "video-analysis"),
    ):
        model_manager.register_model_to_mlflow(
            model_name=name, model_source="huggingface", model_path=str(folder), tags={"task": task}
        )
    model_manager.register_model_to_mlflow(
        model_name="parity-ollama",
        model_source="ollama",
        model_path=OLLAMA_MODEL,
        tags={"task": "text-generation"},
    )


@pytest.fixture(scope="module")
def answers(
    local_stack: LocalStack,
    models: None,
    ollama_server: Ollama,
    tmp_path_factory: pytest.TempPathFactory,
) -> Answers:
    """What one worker, over Kafka and HTTP, and a manager in this process say to every case."""
    bucket = BUCKET
    store = local_stack.s3.client()
    try:
        for name, content in UPLOADS.items():
            store.put_object(Bucket=bucket, Key=f"parity/{name}", Body=content())
    finally:
        store.close()
    site = Site(
        tmp_path_factory.mktemp("parity"),
        local_stack.settings(),
        http={"port": 0},
        ollama={"api_base": ollama_server.url},
        transformers={"device": "cpu", "threads": 1},
        cache={"max_models": 16},
    )
    asyncio.run(site.create_topics(HandlerRegistry().tasks()))
    known = {name: getattr(site.settings, name) for name in EngineSettings.model_fields}
    with WorkerProcess(site) as worker, closing(MediaFetcher(site.settings.media, site.settings.s3)) as fetcher:
        asyncio.run(worker.started())
        manager = InferenceManager.from_settings(EngineSettings(**known), fetch_media=fetcher.resolve)
        try:
            requests = {name: complete(case, bucket) for name, case in {**CASES, **REFUSED}.items()}
            found = asyncio.run(asked_three_ways(requests, site, manager))
        finally:
            manager.close()
        assert worker.terminate() == 0
    return found


async def http_url(site: Site) -> str:
    """Return where the started worker answers HTTP."""

    def started(records: list[Record]) -> list[str]:
        events = [decode_event(record.value) for record in records]
        return [event.details["http"] for event in events if event.kind == "worker_started"]

    [url] = started(await site.read([site.topics.events], lambda records: bool(started(records))))
    return url


def complete(case: dict[str, Any], bucket: str) -> dict[str, Any]:
    """Return the request with its engine, and addresses for the names of uploads."""
    fields = {"image", "images", "audio", "video", "document"} & case["data"].keys()
    data = dict(case["data"])
    for field in fields:
        value = data[field]
        data[field] = [_address(one, bucket) for one in value] if isinstance(value, list) else _address(value, bucket)
    return {
        "engine": "transformers",
        "options": {},
        "id": "the-same",
        "metadata": {"ключ": 7},
        **case,
        "data": data,
    }


def _address(name: str, bucket: str) -> str:
    return name if "://" in name else f"s3://{bucket}/parity/{name}"


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    """Return what must be the same whichever way was taken."""
    same = {
        name: result[name] for name in ("success", "id", "task", "engine", "model_name", "model_version", "metadata")
    }
    if result["result"] is None:
        return {**same, "error": result["error"]}
    kept = {name: value for name, value in result["result"]["metadata"].items() if name not in TIMES}
    return {**same, "result": {**result["result"], "metadata": kept}}


def test_the_cases_are_of_every_task() -> None:
    assert {case["task"] for case in CASES.values()} == set(HandlerRegistry().tasks())


@pytest.mark.parametrize("name", CASES)
def test_the_same_request_gets_the_same_result_three_ways(answers: Answers, name: str) -> None:
    for result in answers[name].values():
        assert result["success"], result["error"]
    kafka, http, python = map(without_times, answers[name].values())
    assert http == kafka
    assert python == kafka


@pytest.mark.parametrize("code", REFUSED)
def test_the_same_request_gets_the_same_refusal_three_ways(answers: Answers, code: str) -> None:
    for result in answers[code].values():
        assert result["error"]["code"] == code
    kafka, http, python = map(without_times, answers[code].values())
    assert http == kafka
    assert python == kafka
