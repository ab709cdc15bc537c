"""The embedded stack works end to end, keeps its data and its secrets, and leaves nothing running."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from botocore.exceptions import ClientError

from deploy.local import LocalStack, PartStatus, StackError
from deploy.local.s3 import BUCKET
from tests.processes import all_gone, family, living_in, wait_until

_REPOSITORY = Path(__file__).parents[2]
_CHILD = """
import sys, time
from pathlib import Path
from deploy.local import LocalStack

with LocalStack(Path(sys.argv[1])) as stack:
    print(*(part.pid for part in stack.parts), flush=True)
    time.sleep(600)
"""


async def test_the_broker_carries_keys_values_and_headers(local_stack: LocalStack) -> None:
    address, topic = local_stack.settings()["kafka"]["bootstrap_servers"], f"stack-{uuid.uuid4().hex}"
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1)])
        described = await admin.describe_topics([topic])
        assert len(described[0]["partitions"]) == 3
    finally:
        await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=address)
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest", fetch_max_wait_ms=20)
    await producer.start()
    await consumer.start()
    try:
        await producer.send_and_wait(topic, b"value", key=b"key", headers=[("ce_id", b"1")])
        message = await asyncio.wait_for(consumer.getone(), timeout=20)
        assert (message.key, message.value, list(message.headers)) == (b"key", b"value", [("ce_id", b"1")])
    finally:
        await consumer.stop()
        await producer.stop()


def test_the_user_has_the_bucket_media_and_may_do_nothing_else(local_stack: LocalStack) -> None:
    key, secret_bucket = uuid.uuid4().hex, f"other-{uuid.uuid4().hex}"
    with _client(local_stack) as admin, _client(local_stack, as_user=True) as user:
        admin.put_object(Bucket=BUCKET, Key=key, Body=b"speech")
        admin.create_bucket(Bucket=secret_bucket)
        admin.put_object(Bucket=secret_bucket, Key=key, Body=b"private")
        assert user.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"speech"
        assert key in _keys(user, BUCKET)
        user.put_object(Bucket=BUCKET, Key=f"mine-{key}", Body=b"uploaded")
        assert admin.get_object(Bucket=BUCKET, Key=f"mine-{key}")["Body"].read() == b"uploaded"
        with pytest.raises(ClientError, match="AccessDenied"):
            user.put_object(Bucket=secret_bucket, Key="mine", Body=b"")
        with pytest.raises(ClientError, match="AccessDenied"):
            user.get_object(Bucket=secret_bucket, Key=key)


def test_mlflow_registers_a_model_and_serves_its_files(local_stack: LocalStack, tmp_path: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    client = MlflowClient(tracking_uri=local_stack.mlflow.url)
    name = f"stack-{uuid.uuid4().hex}"
    (tmp_path / "config.json").write_text("{}")
    run = client.create_run(experiment_id="0")
    client.log_artifact(run.info.run_id, str(tmp_path / "config.json"), "model")
    client.create_registered_model(name)
    client.create_model_version(name, f"{run.info.artifact_uri}/model", run_id=run.info.run_id)
    client.set_registered_model_alias(name, "champion", "1")
    assert str(client.get_model_version_by_alias(name, "champion").version) == "1"
    fetched = download_artifacts(
        artifact_uri=f"{run.info.artifact_uri}/model/config.json",
        dst_path=str(tmp_path / "fetched"),
        tracking_uri=local_stack.mlflow.url,
    )
    assert Path(fetched).read_text() == "{}"


def test_a_part_can_be_away_for_a_while_and_returns_at_the_same_address_with_its_data(
    local_stack: LocalStack,
) -> None:
    settings, key = local_stack.settings(), uuid.uuid4().hex
    with _client(local_stack) as admin:
        admin.put_object(Bucket=BUCKET, Key=key, Body=b"kept")
    s3 = local_stack.s3
    s3.stop()
    try:
        assert s3.status == "stopped"
        with pytest.raises(ConnectionRefusedError):
            _get(s3.url)
    finally:
        s3.start()
    assert local_stack.settings() == settings
    with _client(local_stack) as admin:
        assert admin.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"kept"


def test_the_settings_of_a_worker_point_at_the_stack_as_the_user(local_stack: LocalStack) -> None:
    settings, (broker, *_) = local_stack.settings(), local_stack.parts
    assert settings["kafka"]["bootstrap_servers"] == broker.address
    assert settings["s3"]["access_key"] == local_stack.s3.user.access_key
    assert settings["s3"]["endpoint_url"] == local_stack.s3.url
    assert settings["mlflow"] == {"tracking_uri": local_stack.mlflow.url}


def test_secrets_are_private_random_and_not_in_any_log(local_stack: LocalStack) -> None:
    identities = local_stack.root / "s3" / "identities.json"
    assert stat.S_IMODE(identities.stat().st_mode) == 0o600
    known = (local_stack.s3.admin, local_stack.s3.user)
    secrets = {credentials.secret_key for credentials in known}
    assert len(secrets) == 2
    for secret in secrets:
        assert secret not in repr(known)
        assert secret in identities.read_text()
        for part in local_stack.parts:
            assert secret not in part.log_path.read_text(errors="replace")


def test_nothing_listens_beyond_this_machine(local_stack: LocalStack) -> None:
    import psutil

    for part in local_stack.parts:
        assert part.pid is not None
        listening = [
            connection
            for pid in family(part.pid)
            for connection in psutil.Process(pid).net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening
        assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_a_second_stack_on_the_same_folder_is_refused(local_stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.local.stack._LOCK_TIMEOUT_S", 0.1)
    with pytest.raises(StackError, match="another local stack uses"):
        LocalStack(local_stack.root).start()


def test_a_failing_part_stops_the_others_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "deploy.local.broker.Broker.command",
        lambda self: [sys.executable, "-c", "raise SystemExit('no memory left')"],
    )
    heard: list[PartStatus] = []
    stack = LocalStack(tmp_path / "stack", on_status=heard.append)
    with pytest.raises(StackError, match=r"(?s)broker: died with status 1 while starting.*no memory left"):
        stack.start()
    assert all(part.pid is None for part in stack.parts)
    assert {status.name for status in heard if status.status == "starting"} == {"broker", "s3", "mlflow"}
    assert not any(status.status == "ready" for status in heard if status.name == "broker")


def test_a_killed_parent_leaves_nothing_behind_and_the_next_start_finds_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, temporary = tmp_path / "stack", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with _stack_in_a_child(root) as (child, pids):
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=20)
        assert all_gone(pids)
    sockets = [Path(line) for line in (root / "s3" / "sockets").read_text().splitlines()]
    assert any(socket.exists() for socket in sockets)  # the store makes them; the next start removes them
    first_secrets = (root / "s3" / "identities.json").read_text()
    with _stack_in_a_child(root) as (child, pids):
        child.send_signal(signal.SIGINT)
        child.wait(timeout=20)
        assert child.returncode != 0
        assert all_gone(pids)
    assert not any(socket.exists() for socket in sockets)
    assert (root / "s3" / "identities.json").read_text() == first_secrets
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 5, 6])
def test_ctrl_c_while_the_stack_starts_leaves_nothing_behind(tmp_path: Path, processes: int) -> None:
    """Interrupted when so many processes are up: in the middle of starting one thread, or the next."""
    child = _start_child(tmp_path / "stack")
    try:
        assert wait_until(lambda: len(family(child.pid)) > processes, timeout_s=60)
        child.send_signal(signal.SIGINT)
        child.wait(timeout=30)
        assert wait_until(lambda: not living_in(tmp_path))
    finally:
        child.kill()
        child.communicate()


@contextmanager
def _stack_in_a_child(root: Path) -> Iterator[tuple[subprocess.Popen[str], set[int]]]:
    """Run a stack in a process of its own; gives that process, and the pids of everything below it."""
    child = _start_child(root)
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        assert line, child.communicate()[1]
        below = family(child.pid) - {child.pid}
        assert {int(pid) for pid in line.split()} <= below
        yield child, below
    finally:
        child.kill()
        child.communicate()


def _start_child(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_REPOSITORY,
        env=dict(os.environ),
    )


@contextmanager
def _client(stack: LocalStack, *, as_user: bool = False) -> Iterator[Any]:
    client = stack.s3.client(stack.s3.user if as_user else stack.s3.admin)
    try:
        yield client
    finally:
        client.close()


def _keys(client: Any, bucket: str) -> set[str]:
    return {entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]}


def _get(url: str) -> int:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()
