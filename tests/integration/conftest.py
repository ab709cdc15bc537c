"""One local stack for the whole run of the integration tests."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from deploy.local import KafkaRelease, LocalStack
from deploy.local.s3 import BUCKET
from deploy.models import CATALOGUE
from engines.config.settings import CacheSettings, MlflowSettings
from engines.models.model_manager import ModelManager
from examples.models.ollama import Ollama
from tests.integration.worker_process import Site, WorkerProcess

KAFKA_HOME = "INFERSTREAM_TEST_KAFKA_HOME"
"""The variable that names an unpacked release of Apache Kafka, for tests on it instead of the embedded broker."""

_GIGABYTE = 1024**3
_PART = 64 * 1024**2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.integration)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which broker the tests of this folder ran on."""
    if home := os.environ.get(KAFKA_HOME):
        line = f"integration and chaos tests ran on Apache Kafka from {home}"
    else:
        line = (
            "integration and chaos tests ran on the embedded broker; Apache Kafka was not tested: "
            f"{KAFKA_HOME} names no release"
        )
    terminalreporter.section("broker", sep="-")
    terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def kafka_release() -> KafkaRelease | None:
    """The release of Apache Kafka to test on, None where none is named."""
    home = os.environ.get(KAFKA_HOME)
    return KafkaRelease.find(Path(home)) if home else None


@pytest.fixture(scope="session")
def local_stack(kafka_release: KafkaRelease | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A running broker, S3 store and MLflow server, shared: use topics, keys and model names of your own.

    The broker is Apache Kafka where a release is named, else the embedded one. A test that stops a part starts
    it again before it ends.
    """
    with LocalStack(tmp_path_factory.mktemp("stack"), kafka=kafka_release) as stack:
        yield stack


@pytest.fixture(scope="session")
def ollama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ollama]:
    """A running Ollama-like server with the model `examples.models.ollama.MODEL`, shared: leave it running."""
    server = Ollama(tmp_path_factory.mktemp("ollama"), on_status=lambda status: None, abandon=Event())
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def model_manager(local_stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> ModelManager:
    """A manager for registering models at the shared stack."""
    directory = tmp_path_factory.mktemp("registering")
    return ModelManager(MlflowSettings(tracking_uri=local_stack.mlflow.url), CacheSettings(directory=directory))


@pytest.fixture(scope="session")
def real_models(model_manager: ModelManager, smollm2_path: Path, whisper_tiny_path: Path, pp_ocr_path: Path) -> None:
    """SmolLM2, Whisper tiny.en and PP-OCRv5 mobile, registered under the names of their recipes."""
    for name, folder in (
        ("smollm2-135m-instruct", smollm2_path),
        ("whisper-tiny.en", whisper_tiny_path),
        ("pp-ocrv5-mobile", pp_ocr_path),
    ):
        model_manager.register_model_to_mlflow(
            model_name=name, model_source="huggingface", model_path=str(folder), tags=CATALOGUE[name].tags
        )


@pytest.fixture(scope="session")
def sleepy_model(model_manager: ModelManager) -> str:
    """A registered model without files for the engine of tests.plugins.sleepy, and `sleepy-too` beside it."""
    for name in ("sleepy", "sleepy-too"):
        model_manager.register_model_to_mlflow(
            model_name=name,
            model_source="huggingface",
            model_path=f"hf://tests/{name}",
            tags={"task": "sleepy,plain", "engine": "sleepy"},
        )
    return "sleepy"


@pytest.fixture(scope="session")
def worker_site(local_stack: LocalStack, real_models: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Topics of their own with one running worker of two tasks, for tests that leave it as it is."""
    tasks = ["asr", "text-generation"]
    worker_settings = {"tasks": tasks, "reply_topics": [r".+\.replies"]}
    site = Site(tmp_path_factory.mktemp("worker"), local_stack.settings(), worker=worker_settings)
    asyncio.run(site.create_topics(tasks))
    with WorkerProcess(site) as worker:
        asyncio.run(worker.started())
        yield site
        assert worker.terminate() == 0


@pytest.fixture(scope="session")
def forbidden_object(local_stack: LocalStack) -> str:
    """The address of an object in a bucket that the worker's identity may not read."""
    store = local_stack.s3.client()
    try:
        store.create_bucket(Bucket="private")
        store.put_object(Bucket="private", Key="secret.wav", Body=b"not for everybody")
    finally:
        store.close()
    return "s3://private/secret.wav"


@pytest.fixture(scope="session")
def huge_object(local_stack: LocalStack) -> Iterator[str]:
    """The address of a real object of 1 GiB."""
    store = local_stack.s3.client()
    place = {"Bucket": BUCKET, "Key": "huge.wav"}
    try:
        upload = store.create_multipart_upload(**place, ContentType="text/plain")["UploadId"]
        zeros = bytes(_PART)
        parts = [
            {
                "PartNumber": number,
                "ETag": store.upload_part(**place, UploadId=upload, PartNumber=number, Body=io.BytesIO(zeros))["ETag"],
            }
            for number in range(1, _GIGABYTE // _PART + 1)
        ]
        store.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": parts})
        yield f"s3://{place['Bucket']}/{place['Key']}"
        store.delete_object(**place)
    finally:
        store.close()
