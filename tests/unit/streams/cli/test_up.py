"""`inferstream up` refuses what it cannot start before it fetches or starts anything."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from deploy.local import LocalStack, PartStatus
from deploy.models import CATALOGUE
from streams.cli.command_line import app
from streams.cli.global_options import GlobalOptions
from streams.cli.send import MAIN_INPUT
from streams.cli.up import MODELS, _how_to_send
from streams.cli.up import _overrides as overrides_of
from streams.local.platform import LocalPlatform


def up(*arguments: str, folder: Path) -> Result:
    command = ["up", "--no-models", "--directory", str(folder / "data"), *arguments]
    return CliRunner().invoke(app, command, env={"COLUMNS": "200"})


def test_several_brokers_need_a_release_of_kafka(tmp_path: Path) -> None:
    done = up("--brokers", "3", folder=tmp_path)
    assert done.exit_code == 2
    assert "--kafka-home DIR" in done.output
    assert not (tmp_path / "data").exists()


def test_help_names_the_models_of_the_catalogue() -> None:
    assert sorted(MODELS) == sorted(CATALOGUE)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:8080", "HTTP: http://127.0.0.1:8080\n"),
        ("http://127.0.0.1:9123", "HTTP: http://127.0.0.1:9123, as port 8080 is taken or another is set\n"),
        ("", ""),
    ],
)
def test_how_to_send_has_an_example_for_each_model(url: str, told: str, tmp_path: Path) -> None:
    platform = LocalPlatform(LocalStack(tmp_path), overrides={}, models=tuple)
    platform.http_url = url
    text = _how_to_send(platform, list(MODELS), tmp_path)
    assert text.count("HTTP: ") == text.count("curl") == bool(url)
    assert told in text
    for name in MODELS:
        task = next(one for one in MAIN_INPUT if f"send {one} {name} " in text)
        assert task in CATALOGUE[name].task.split(",")


class NeverReady:
    """A worker process that is interrupted before it is ready."""

    pid = 1

    def __init__(self, *_: object, **__: object) -> None: ...

    def poll(self) -> None: ...

    def kill(self) -> None: ...


def test_a_worker_that_is_interrupted_in_its_start_is_told_once_as_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[PartStatus] = []
    platform = LocalPlatform(LocalStack(tmp_path, on_status=told.append), overrides={}, models=tuple)

    def interrupted(awaited: Coroutine[Any, Any, str]) -> str:
        awaited.close()
        raise KeyboardInterrupt

    monkeypatch.setattr("streams.local.platform.GuardedProcess", NeverReady)
    monkeypatch.setattr("streams.interrupts.run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        platform._start_worker()
    platform.stop(drain=False)
    assert [one.status for one in told if one.name == "worker"] == ["starting", "stopped"]


def test_models_and_none_are_a_contradiction(tmp_path: Path) -> None:
    done = up("--model", "whisper-base", folder=tmp_path)
    assert (done.exit_code, "not both" in done.output) == (2, True)


@pytest.mark.parametrize("brokers", ["0", "2", "5"])
def test_there_is_one_broker_or_three(tmp_path: Path, brokers: str) -> None:
    done = up("--kafka-home", str(tmp_path), "--brokers", brokers, folder=tmp_path)
    assert done.exit_code == 2
    assert f"{brokers} is neither 1 nor 3" in done.output


def test_a_folder_that_is_no_release_is_said_in_a_sentence(tmp_path: Path) -> None:
    done = up("--kafka-home", str(tmp_path), folder=tmp_path)
    assert done.exit_code == 1
    assert "is not an unpacked release of Apache Kafka" in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "data").exists()


def test_a_missing_java_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "kafka.jar").touch()
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = up("--kafka-home", str(tmp_path), folder=tmp_path)
    assert done.exit_code == 1
    assert "no `java` on the PATH; install a JRE of version 17 or newer" in done.output


@pytest.mark.parametrize(
    ("key", "variable"),
    [
        ("kafka.bootstrap_servers", "INFERSTREAM_KAFKA__BOOTSTRAP_SERVERS"),
        ("s3.secret_key", "INFERSTREAM_S3__SECRET_KEY"),
        ("mlflow.tracking_uri", "INFERSTREAM_MLFLOW__TRACKING_URI"),
    ],
)
def test_the_address_of_a_server_that_is_started_here_cannot_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, variable: str
) -> None:
    said = f"{key} cannot be set for inferstream up, which starts that server itself"
    access = ("--set", "s3.access_key=k") if key.startswith("s3") else ()
    assert said in up("--set", f"{key}=x:1", *access, folder=tmp_path).output
    monkeypatch.setenv(variable, "x")
    done = up(folder=tmp_path)
    assert done.exit_code == 2
    assert said in done.output
    assert not (tmp_path / "data").exists()


def test_a_bad_setting_is_told_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("worker: {batch_max_itms: 3}\n")
    for arguments in (("--set", "worker.batch_max_itms=3"), ("--config", str(file))):
        done = up(*arguments, folder=tmp_path)
        assert done.exit_code == 2
        assert "batch_max_items" in done.output
    assert not (tmp_path / "data").exists()


def test_settings_of_the_command_line_and_the_file_are_the_workers(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("worker: {batch_max_items: 3, tasks: [asr]}\nlogging: {format: json}\n")
    options = GlobalOptions(file, ["worker.batch_max_items=5", "http.port=0", "ollama.timeout=9"])
    overrides = overrides_of(options)
    assert overrides["worker"] == {"batch_max_items": "5", "tasks": ["asr"]}
    assert overrides["logging"] == {"format": "json"}
    assert overrides["http"] == {"port": "0"}
    assert overrides["ollama"] == {"timeout_s": "9"}


def test_the_worker_listens_on_8080_where_that_is_free() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        except OSError:
            pass  # somebody else has it, which is the same to us
        assert overrides_of(GlobalOptions())["http"] == {"port": 0}


def test_a_port_that_is_taken_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = up("--set", f"http.port={port}", folder=tmp_path)
    assert (done.exit_code, f"http.port={port} is in use" in done.output) == (2, True), done.output
    assert not (tmp_path / "data").exists()


def test_a_second_one_in_a_folder_leaves_the_first_ones_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.local.stack._LOCK_TIMEOUT_S", 0.0)
    monkeypatch.setattr("streams.local.platform._import_mlflow", lambda: None)
    folder = tmp_path / "data"
    folder.mkdir()
    settings = folder / "inferstream.yaml"
    settings.write_text("http: {port: 8080}\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = CliRunner().invoke(app, ["up", "--directory", str(folder)], env={"COLUMNS": "200"})
    assert done.exit_code == 1
    assert not (tmp_path / "cache").exists(), "no model is fetched before"
    assert "another local stack uses" in done.output
    assert "--directory" in done.output
    assert settings.exists()


def test_a_model_without_a_recipe_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    folder = str(tmp_path / "data")
    command = ["up", "--model", "whisper-base", "--model", "whisper-bas", "--directory", folder]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "200", "XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert done.exit_code == 2
    assert "whisper-bas" in done.output
    assert "smollm2-135m-instruct, " in done.output
    assert "models register" in done.output
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_used_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.local.platform._import_mlflow", lambda: None)
    (tmp_path / "data").write_text("a file")
    done = up(folder=tmp_path)
    assert done.exit_code == 1
    assert str(tmp_path / "data") in done.output
    assert "File exists" in done.output
    assert "Traceback" not in done.output
