"""The README keeps its word: each of its commands and programs is run against what `inferstream up` starts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.recordings import librivox_recordings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PATIENCE_S = 240.0


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[str]:
    """Return the command lines that begin with `program`."""
    lines = [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines()]
    return [line.partition("    #")[0].strip() for line in lines if line.startswith(f"{program} ")]


@dataclass(frozen=True, slots=True)
class Home:
    """A folder in which `inferstream up` runs, and where its worker answers HTTP."""

    folder: Path
    url: str

    def run(self, arguments: list[str] | str) -> subprocess.CompletedProcess[str]:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("INFERSTREAM_")
        }
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        return subprocess.run(
            arguments,
            cwd=self.folder,
            env=environment,
            shell=isinstance(arguments, str),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(librivox_recordings()[0].path, folder / "recording.flac")
    output = folder / "up.txt"
    with output.open("w") as file:
        up = subprocess.Popen(
            [sys.executable, "-m", "streams.cli", "up"], cwd=folder, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        late = time.monotonic() + PATIENCE_S
        while "inferstream is up" not in (shown := output.read_text()):
            assert up.poll() is None, shown
            assert time.monotonic() < late, shown
            time.sleep(0.1)
        address = re.search(r"http://127\.0\.0\.1:\d+(?=/inference)", output.read_text())
        assert address is not None, output.read_text()
        yield Home(folder, address.group())
        up.send_signal(signal.SIGINT)
        assert up.wait(PATIENCE_S) == 0, output.read_text()
    finally:
        if up.poll() is None:
            up.kill()
            up.wait()


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for line in commands("make")}
    assert named
    assert named <= targets


def test_every_file_it_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("line", commands("inferstream"))
def test_its_command_works(home: Home, line: str) -> None:
    done = home.run(line)
    assert done.returncode == 0, done.stdout + done.stderr
    if "capital of France" in line:
        assert "Paris" in done.stdout
    if "asr" in line:
        assert "dashwood" in done.stdout.lower() or len(done.stdout.split()) > 5


@pytest.mark.parametrize("line", commands("curl"))
def test_its_curl_line_works(home: Home, line: str) -> None:
    done = home.run(line.replace("http://localhost:8080", home.url))
    assert done.returncode == 0, done.stderr
    if "event-stream" in line:
        assert "event: token" in done.stdout
        assert done.stdout.rstrip().splitlines()[-1].startswith("data: ")
        return
    answer = json.loads(done.stdout)
    if "/infer " in line:
        assert answer["success"], answer
    if "capital of France" in line:
        assert "Paris" in answer["result"]["generated_text"]


@pytest.mark.parametrize("program", blocks("python"))
def test_its_program_works(home: Home, program: str) -> None:
    done = home.run([sys.executable, "-c", program])
    assert done.returncode == 0, done.stderr
    if "capital of France" in program:
        assert "Paris" in done.stdout
