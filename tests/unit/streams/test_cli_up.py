"""`inferstream up` refuses what it cannot start before it fetches or starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from streams.cli import app


def up(*arguments: str, folder: Path) -> Result:
    command = ["up", "--no-models", "--directory", str(folder / "data"), *arguments]
    return CliRunner().invoke(app, command, env={"COLUMNS": "200"})


def test_several_brokers_need_a_release_of_kafka(tmp_path: Path) -> None:
    done = up("--brokers", "3", folder=tmp_path)
    assert done.exit_code == 2
    assert "--kafka-home DIR" in done.output
    assert not (tmp_path / "data").exists()


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
