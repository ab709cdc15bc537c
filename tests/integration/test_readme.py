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

from deploy.local.ports import is_free
from tests.recordings import librivox_recordings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PATIENCE_S = 600.0


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
    was_free: bool
    """Whether the port that README names was free before."""

    def run(self, arguments: list[str] | str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("INFERSTREAM_")}
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
    was_free = is_free(8080)
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
        yield Home(folder, address.group(), was_free)
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


def steps() -> list[tuple[str, str]]:
    """Return what a reader runs once `inferstream up` runs, in README's order: kind and text of each step."""
    found: list[tuple[str, str]] = []
    for language, body in re.findall(r"^```(console|python)\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        if language == "python":
            found.append(("program", body))
            continue
        lines = [line.removeprefix("$ ").partition("    #")[0].strip() for line in body.splitlines()]
        found += [(line.partition(" ")[0], line) for line in lines if line.startswith(("inferstream ", "curl "))]
    return found


@pytest.mark.parametrize(("kind", "text"), steps())
def test_each_step_works_in_the_order_of_the_readme(home: Home, kind: str, text: str) -> None:
    if kind == "program":
        done = home.run([sys.executable, "-c", text])
    else:
        # As written where the port that it names was free; elsewhere `up` says which one it took.
        done = home.run(text.replace("http://localhost:8080", home.url))
    assert done.returncode == 0, done.stdout + done.stderr
    if "capital of France" in text:
        assert "Paris" in done.stdout
    if "send asr" in text:
        assert "dashwood" in done.stdout.lower() or len(done.stdout.split()) > 5
    if kind != "curl":
        return
    if "event-stream" in text:
        assert "event: token" in done.stdout
        assert done.stdout.rstrip().splitlines()[-1].startswith("data: ")
    elif "/infer " in text:
        answer = json.loads(done.stdout)
        assert answer["success"], answer


def test_the_worker_listens_where_the_readme_says_unless_that_port_is_taken(home: Home) -> None:
    assert home.url.endswith(":8080") or not home.was_free
