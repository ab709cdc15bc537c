"""An unpacked release of Kafka and its Java are found, or their lack is said in words that help."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local import KafkaRelease, StackError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder that looks like a release."""
    libs = tmp_path / "kafka" / "libs"
    libs.mkdir(parents=True)
    (libs / "kafka_2.13-4.3.1.jar").touch()
    return libs.parent


def java_that_says(folder: Path, words: str, status: int = 0) -> Path:
    """Make `folder/bin/java`, a program that prints `words` where Java prints its version."""
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{words}\nEND\nexit {status}\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("version", ["17.0.15", "17", "21.0.1", "25-ea"])
def test_a_release_runs_on_java_17_or_newer(
    home: Path, tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = java_that_says(tmp_path / "jre", f'openjdk version "{version}" 2025-04-15')
    monkeypatch.setenv("JAVA_HOME", str(java.parents[1]))
    command = KafkaRelease.find(home).command("kafka.Kafka", "server.properties", options=("-Dx=y",))
    assert command[0] == str(java)
    assert command[-4:] == ["-cp", str(home / "libs" / "*"), "kafka.Kafka", "server.properties"]
    assert "-Dx=y" in command


def test_without_java_home_the_java_on_the_path_is_taken(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = java_that_says(tmp_path / "usr", 'openjdk version "21.0.1"')
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{java.parent}:/bin:/usr/bin")
    assert KafkaRelease.find(home).java == java


@pytest.mark.parametrize("version", ["1.8.0_392", "11.0.2", "16"])
def test_an_older_java_is_refused_by_its_version(
    home: Path, tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = java_that_says(tmp_path / "jre", f'java version "{version}"')
    monkeypatch.setenv("JAVA_HOME", str(java.parents[1]))
    major = version.removeprefix("1.").split(".")[0]
    with pytest.raises(StackError, match=rf"{java} is Java {major}, Kafka needs 17 or newer; install a JRE"):
        KafkaRelease.find(home)


def test_no_java_at_all_says_what_to_install(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match=r"no `java` on the PATH; install a JRE of version 17 or newer"):
        KafkaRelease.find(home)


def test_a_java_home_without_java_is_named(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(StackError, match=rf"JAVA_HOME={tmp_path} has no bin/java; install"):
        KafkaRelease.find(home)


@pytest.mark.parametrize("status", [0, 1])
def test_a_java_that_does_not_tell_its_version_is_quoted(
    home: Path, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = java_that_says(tmp_path / "jre", "cannot open shared object file", status)
    monkeypatch.setenv("JAVA_HOME", str(java.parents[1]))
    with pytest.raises(StackError, match=r"does not say which version it is, but: cannot open shared object"):
        KafkaRelease.find(home)


@pytest.mark.parametrize("made", [None, "empty", "libs"])
def test_a_folder_without_jars_is_no_release(tmp_path: Path, made: str | None) -> None:
    folder = tmp_path / "kafka"
    if made is not None:
        folder.mkdir()
    if made == "libs":
        (folder / "libs").mkdir()
    with pytest.raises(StackError, match=rf"{folder} is not an unpacked release.*no libs/ with jars"):
        KafkaRelease.find(folder)
