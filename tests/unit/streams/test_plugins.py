"""Plugins and tasks of a worker: imported in one place, and a wrong name stops the start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engines.configuration import ConfigurationError
from handlers import model_registry
from streams.pipeline.runtime import open_runtime
from streams.plugins import import_plugins, tasks_of
from streams.settings import Settings, WorkerSettings
from streams.worker.worker import run
from tests.unit.streams.conftest import CommandLine

PLUGIN = """
from handlers import BaseModelHandler, model_registry

class Handler(BaseModelHandler):
    def preprocess(self, data, options): return data
    def postprocess(self, result, options): return result

model_registry.register_handler_manually("hum", "hum", Handler)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that brings the task hum."""
    (tmp_path / "humming.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(model_registry, "_registered", {})
    monkeypatch.delitem(sys.modules, "humming", raising=False)
    return "humming"


def test_the_tasks_of_a_worker_are_all_there_are_its_plugins_among_them(plugin: str) -> None:
    assert "hum" not in tasks_of(WorkerSettings())
    assert {"asr", "hum"} <= set(tasks_of(WorkerSettings(plugins=(plugin,))))
    assert tasks_of(WorkerSettings(plugins=(plugin,), tasks=("hum", "asr", "hum"))) == ["hum", "asr"]


def test_a_task_that_nothing_serves_is_told_with_the_nearest(plugin: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        tasks_of(WorkerSettings(plugins=(plugin,), tasks=("asr", "hun", "zzz")))
    near, far = caught.value.problems
    assert near.startswith("worker.tasks: 'hun' is not a task here; did you mean hum? (known: asr, ")
    assert far.startswith("worker.tasks: 'zzz' is not a task here; install its package, or name its module in ")


def test_every_plugin_that_cannot_be_imported_is_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "limping.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        import_plugins(["json", "no_such_module", "limping"])
    assert len(caught.value.problems) == 2
    assert "no_such_module cannot be imported: ModuleNotFoundError" in caught.value.problems[0]
    assert "limping cannot be imported: ZeroDivisionError" in caught.value.problems[1]


def test_a_worker_does_not_start_with_a_task_that_nothing_serves() -> None:
    with pytest.raises(ConfigurationError, match=r"worker\.tasks: 'orc' is not a task here; did you mean ocr"):
        run(Settings(worker=WorkerSettings(tasks=("orc",))))


async def test_a_worker_does_not_start_with_a_setting_that_its_engine_does_not_take() -> None:
    settings = Settings.model_validate({"engines": {"tansformers": {"device": "cpu"}}})
    with pytest.raises(ConfigurationError, match=r"engines\.tansformers: no such engine; did you mean transf"):
        async with open_runtime(settings):
            raise AssertionError("it started")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The tasks for which topics were created or checked."""
    tasks: list[set[str]] = []

    async def remember(kafka: object, of: list[str]) -> list[str]:
        tasks.append(set(of))
        return []

    monkeypatch.setattr("streams.kafka.topic_admin.create_topics", remember)
    monkeypatch.setattr("streams.kafka.topic_admin.check_topics", remember)
    return tasks


@pytest.mark.parametrize("verb", ["create", "check"])
def test_topics_are_those_of_plugins_too(
    verb: str, plugin: str, asked: list[set[str]], command_line: CommandLine
) -> None:
    shown = command_line("topics", verb, "--set", f"worker.plugins={plugin}")
    assert shown.exit_code == 0, shown.output
    assert {"asr", "hum"} <= asked[0]


@pytest.mark.parametrize("verb", ["create", "check"])
@pytest.mark.parametrize("given", [("--task", "orc"), ("--set", "worker.tasks=orc")])
def test_no_topics_are_made_for_a_task_that_nothing_serves(
    verb: str, given: tuple[str, str], asked: list[set[str]], command_line: CommandLine
) -> None:
    shown = command_line("topics", verb, *given)
    assert shown.exit_code == 2
    assert "'orc' is not a task here; did you mean ocr?" in shown.stderr
    assert asked == []


@pytest.mark.processes
def test_a_worker_whose_plugin_is_missing_says_so_in_a_line() -> None:
    command = [sys.executable, "-m", "streams.cli", "worker", "--config", "/dev/null", "--set"]
    done = subprocess.run([*command, "worker.plugins=gone_away"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "✗ worker.plugins: gone_away cannot be imported: ModuleNotFoundError: No module named 'gone_away'; install "
        "it, put its folder on PYTHONPATH, or correct worker.plugins"
    ]
