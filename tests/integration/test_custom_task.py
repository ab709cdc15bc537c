"""examples/custom_task: installed, started and asked by the lines of its README; and the same without a package."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import LocalStack
from streams.client import InferenceClient
from streams.messages import Request
from tests.integration.worker_process import PATIENCE_S, Site, WorkerProcess

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "examples" / "custom_task"
README = (PACKAGE / "README.md").read_text()

ASKED = {
    "Where can I find the nearest station?": "en",
    "Ich habe gestern ein sehr gutes Buch gelesen.": "de",
    "Où se trouve la bibliothèque, s'il vous plaît ?": "fr",
    "Mañana vamos a la playa con nuestros amigos.": "es",
    "Domani andremo al mare con i nostri amici.": "it",
    "Morgen gaan wij met onze vrienden naar het strand.": "nl",
}


def ran(command: list[str], *, cwd: Path, **variables: str) -> str:
    """Run a command, which must succeed, and return what it printed."""
    known = {name: value for name, value in os.environ.items() if "INFERSTREAM" not in name}
    done = subprocess.run(
        command, cwd=cwd, env={**known, **variables}, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, f"{shlex.join(command)}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def of_readme(*words: str) -> list[str]:
    """Return the one command of the README that begins with these words, as this environment runs it."""
    [line] = re.findall(rf"^\$ ({' '.join(words)} .*)$", README, re.MULTILINE)
    program, *arguments = shlex.split(line)
    programs = {"python": [], "inferstream": ["-m", "streams.cli"]}
    return [sys.executable, *programs[program], *arguments]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with the example in it, so that the environment of the tests stays as it is."""
    folder = tmp_path_factory.mktemp("site-packages")
    uv = Path(sys.executable).with_name("uv")
    install = [str(uv), "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(PACKAGE)]
    ran([*install, "--python", sys.executable], cwd=folder)
    return folder


@pytest.fixture(scope="module")
def site(local_stack: LocalStack, installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running worker that was set up by the lines of the README."""
    folder = tmp_path_factory.mktemp("custom-task")
    site = Site(folder, local_stack.settings(), worker={"tasks": ["language-identification"]})
    variables = {"PYTHONPATH": str(installed), "INFERSTREAM_CONFIG": str(site.config_path)}
    for words in (["python", "-m"], ["inferstream", "models"], ["inferstream", "topics"]):
        ran(of_readme(*words), cwd=folder, **variables)
    with WorkerProcess(site, settings=variables) as worker:
        asyncio.run(worker.started())
        yield site
        assert worker.terminate() == 0


def test_the_readme_is_answered(site: Site, installed: Path) -> None:
    command = [*of_readme("inferstream", "send"), "--json"]
    printed = ran(command, cwd=site.directory, PYTHONPATH=str(installed), INFERSTREAM_CONFIG=str(site.config_path))
    result = json.loads(printed)
    assert result["success"], result
    assert result["result"]["language"] == "de"
    assert (result["task"], result["engine"]) == ("language-identification", "trigrams")


async def test_languages_are_told_apart_through_kafka(site: Site) -> None:
    requests = [
        Request(
            task="language-identification",
            engine="trigrams",
            model_name="languages",
            data={"text": text},
            options={"top_k": 2},
        )
        for text in ASKED
    ]
    async with InferenceClient(site.settings.kafka, tasks=["language-identification"]) as client:
        for request, language in zip(requests, ASKED.values(), strict=True):
            result = await client.infer(request, timeout_s=PATIENCE_S)
            assert result.error is None
            assert result.result is not None
            assert result.result["language"] == language
            shares = [one["probability"] for one in result.result["languages"]]
            assert len(shares) == 2
            assert shares[0] > 0.9 > shares[1]


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"data": {}}, "INVALID_INPUT", "data.text is required for task language-identification"),
        ({"data": {"text": "42"}}, "INVALID_INPUT", "letters"),
        ({"options": {"top_k": 0}}, "INVALID_OPTION", "an integer from 1 to 100"),
        ({"options": {"topk": 1}}, "INVALID_OPTION", "nearest known option is top_k"),
        ({"engine": "transformers"}, "INVALID_REQUEST", "engine transformers does not run task"),
    ],
)
async def test_a_wrong_request_is_refused_as_for_built_in_tasks(
    site: Site, changes: dict[str, object], code: str, says: str
) -> None:
    fields = {
        "task": "language-identification",
        "engine": "trigrams",
        "model_name": "languages",
        "data": {"text": "Good morning"},
        **changes,
    }
    async with InferenceClient(site.settings.kafka, tasks=["language-identification"]) as client:
        result = await client.infer(Request(**fields), timeout_s=PATIENCE_S)  # type: ignore[arg-type]
    assert result.error is not None
    assert result.error.code == code
    assert says in result.error.message


SCORED = """
import sys
from engines.configuration import load
from engines.registry import EngineRegistry
from engines.config.settings import EngineSettings

from inferstream_langid.profiles import Profiles

engine = EngineRegistry(load(EngineSettings, overrides=sys.argv[1:]).settings).get("trigrams")
shares = engine.infer(Profiles.of_texts({"a": "abc", "b": "xyz"}), {"text": "abc"}, {})["probabilities"]
print(engine.config.smoothing, shares["a"])
"""


def test_its_setting_comes_from_file_environment_and_command_line(installed: Path, tmp_path: Path) -> None:
    def scored(*given: str, **variables: str) -> tuple[float, float]:
        command = [sys.executable, "-c", SCORED, *given]
        smoothing, share = ran(command, cwd=tmp_path, PYTHONPATH=str(installed), **variables).split()
        return float(smoothing), float(share)

    by_default = scored()
    assert by_default[0] == 0.5
    (tmp_path / "inferstream.yaml").write_text(README.split("```yaml\n")[1].split("```")[0])
    by_file = scored()
    by_environment = scored(INFERSTREAM_ENGINES__TRIGRAMS__SMOOTHING="0.8")
    by_command_line = scored("engines.trigrams.smoothing=0.9", INFERSTREAM_ENGINES__TRIGRAMS__SMOOTHING="0.8")
    assert [by_file[0], by_environment[0], by_command_line[0]] == [0.2, 0.8, 0.9]
    shares = [share for _, share in (by_file, by_default, by_environment, by_command_line)]
    assert shares == sorted(shares, reverse=True), "the less an unseen trigram counts, the surer"
    assert len(set(shares)) == 4
    shown = ran(
        [sys.executable, "-m", "streams.cli", "config", "-f", "json"],
        cwd=tmp_path,
        PYTHONPATH=str(installed),
    )
    assert json.loads(shown)["engines"] == {
        "trigrams": {"smoothing": {"value": 0.2, "origin": "file inferstream.yaml:3"}}
    }


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            "engines.trigrams.smoothing=much",
            "engines.trigrams.smoothing='much' (command line): allowed: a number above 0, at most 100. Count of a",
        ),
        ("engines.trigrams.smoothin=1", "no such setting; did you mean engines.trigrams.smoothing?"),
        ("engines.trigram.smoothing=1", "engines.trigram: no such engine; did you mean trigrams?"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_wrong_setting_stops_the_start(installed: Path, tmp_path: Path, command: str, given: str, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streams.cli", command, "--config", "/dev/null", "--set", given],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert says in done.stderr


def test_the_notebook_of_the_readme_finds_keywords(local_stack: LocalStack, tmp_path: Path) -> None:
    [script] = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    printed = ran(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        INFERSTREAM_MLFLOW__TRACKING_URI=local_stack.mlflow.url,
    )
    assert printed.splitlines()[-1] == "['requests', 'workers']"
