"""`inferstream doctor`, `topics` and `models` against real servers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiokafka import AIOKafkaConsumer

from deploy.local import LocalStack
from deploy.local.s3 import BUCKET
from examples.models.ollama import Ollama
from streams.cli.checks import Finding, check_broker, check_s3
from streams.kafka.topic_admin import create_topics
from streams.kafka.topics import Topics
from streams.settings import Settings

Command = Callable[..., "subprocess.CompletedProcess[str]"]
SettingsOfStack = Callable[..., Settings]


@pytest.fixture
def settings(local_stack: LocalStack, tmp_path: Path) -> SettingsOfStack:
    """`settings(kafka={"partitions": 3})`: the stack's own, with new topics of 2 partitions, and these on top."""
    tree: dict[str, Any] = local_stack.settings()
    own = f"t{uuid.uuid4().hex[:8]}"
    tree["kafka"] |= {"topic_prefix": own, "group_id": own, "partitions": 2}
    tree["cache"] = {"directory": str(tmp_path / "cache")}

    def make(**changes: dict[str, Any]) -> Settings:
        sections = tree.keys() | changes.keys()
        return Settings.model_validate({name: {**tree.get(name, {}), **changes.get(name, {})} for name in sections})

    return make


@pytest.fixture
def command(settings: SettingsOfStack, ollama_server: Ollama, tmp_path: Path) -> Command:
    """`command("doctor", "--json")`: the command line in a process of its own, with these settings in a file.

    There is an Ollama, since other tests register models that need one.
    """
    tree = settings().model_dump(mode="json", include={"kafka", "mlflow", "cache"})
    secret = settings().s3.secret_key
    tree["s3"] = settings().s3.model_dump(mode="json") | {"secret_key": secret and secret.get_secret_value()}
    tree["ollama"] = {"api_base": ollama_server.url}
    file = tmp_path / "inferstream.yaml"
    file.write_text(yaml.safe_dump(tree))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "streams.cli", *arguments, "--config", str(file)],
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_missing_topics_are_found_created_and_then_all_is_well(command: Command) -> None:
    before = command("doctor", "--json")
    assert before.returncode == 1, before.stderr
    found = checks(before)
    assert found["broker"]["status"] == found["s3"]["status"] == found["mlflow"]["status"] == "ok"
    assert found["topics"]["status"] == "error"
    assert ".requests.asr" in found["topics"]["detail"]
    assert found["topics"]["cure"] == "run: inferstream topics create"

    assert command("topics", "create").returncode == 0
    after = command("doctor", "--json")
    assert after.returncode == 0, after.stdout + after.stderr
    assert checks(after)["topics"]["status"] == "ok"


def test_too_few_partitions_are_an_error_and_more_are_not(settings: SettingsOfStack) -> None:
    asyncio.run(create_topics(settings().kafka, ["asr"]))
    found = check_broker(settings(kafka={"partitions": 3}), ["asr"])
    assert [(finding.name, finding.status) for finding in found] == [
        ("broker", "ok"),
        ("topics", "error"),
        ("rights", "ok"),
        ("workers", "warning"),
    ]
    assert "2 partitions, kafka.partitions asks for 3" in found[1].detail
    assert check_broker(settings(kafka={"partitions": 1}), ["asr"])[1].status == "ok"


async def test_the_workers_of_the_group_are_counted(settings: SettingsOfStack) -> None:
    mine = settings()
    await create_topics(mine.kafka, ["asr"])
    topic = Topics(mine.kafka.topic_prefix).requests("asr")
    servers, group = mine.kafka.bootstrap_servers, mine.kafka.group_id
    none = found_workers(await asyncio.to_thread(check_broker, mine, ["asr"]))
    assert none == ("warning", f"group {group} has none, so requests wait")
    async with AIOKafkaConsumer(topic, bootstrap_servers=servers, group_id=group):
        one = found_workers(await asyncio.to_thread(check_broker, mine, ["asr"]))
        assert one == ("ok", f"group {group} has 1 worker")


def found_workers(findings: list[Finding]) -> tuple[str, str]:
    [found] = [(one.status, one.detail) for one in findings if one.name == "workers"]
    return found


def test_wrong_s3_keys_are_an_error(settings: SettingsOfStack) -> None:
    (found,) = check_s3(settings(s3={"access_key": "nobody"}))
    assert (found.status, found.cure) == ("error", "correct s3.access_key and s3.secret_key")


def test_a_bucket_that_is_asked_for_must_be_there(settings: SettingsOfStack, local_stack: LocalStack) -> None:
    (there,) = check_s3(settings(), BUCKET)
    (absent,) = check_s3(settings(), "no-such-bucket")
    assert (there.status, absent.status) == ("ok", "error")


def test_a_model_that_needs_an_absent_ollama_makes_it_an_error_and_a_warm_model_must_be_registered(
    command: Command,
) -> None:
    name = f"llama-{uuid.uuid4().hex[:8]}"
    registered = command(
        "models", "register", name, "--source", "ollama", "--path", "llama3", "--task", "text-generation"
    )
    assert registered.returncode == 0, registered.stderr
    listed = json.loads(command("models", "list", "--json").stdout)
    assert name in [model["name"] for model in listed]
    done = command(
        "doctor",
        "--json",
        "--set",
        "ollama.api_base=http://127.0.0.1:1",
        "--set",
        "worker.warm=no-such-model",
    )
    assert done.returncode == 1
    assert checks(done)["ollama"]["status"] == "error"
    warm = [c for c in json.loads(done.stdout)["checks"] if c["name"] == "models" and c["status"] == "error"]
    assert "no-such-model" in warm[0]["detail"]
