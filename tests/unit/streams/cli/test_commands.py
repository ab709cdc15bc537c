"""The command itself: its commands, loaded when run; its global options; its failures in plain words."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engines.run.results import ResultError
from streams.cli.command_line import COMMANDS
from streams.client_errors import NoAnswer
from streams.kafka.topics import TopicProblem
from streams.messages import Request, Result
from streams.settings import Settings
from tests.unit.streams.conftest import CommandLine

HEAVY = ("torch", "transformers", "faust", "mlflow", "boto3", "numpy")


def modules_after(*arguments: str) -> set[str]:
    """Return the modules that a process of its own has imported after running this command line."""
    script = (
        "import json, sys\n"
        f"sys.argv = ['inferstream', *{list(arguments)!r}]\n"
        "from streams.cli import main\n"
        "try:\n    main()\nexcept SystemExit as leaving:\n    assert not leaving.code, leaving.code\n"
        "print('\\n' + json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.processes
def test_help_lists_every_command_and_imports_none() -> None:
    imported = modules_after("--help")
    assert not [name for name in COMMANDS if f"streams.cli.{name}" in imported]
    assert not imported.intersection(HEAVY)


def test_help_shows_each_command_with_its_line_and_examples(command_line: CommandLine) -> None:
    shown = command_line("--help")
    assert shown.exit_code == 0
    for name, line in COMMANDS.items():
        assert name in shown.output
        assert line in shown.output
    assert "$ inferstream doctor" in shown.output


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_examples_and_the_global_options(name: str, command_line: CommandLine) -> None:
    shown = command_line(name, "--help")
    assert shown.exit_code == 0
    if name not in ("models", "topics"):  # groups: their commands have them
        assert f"$ inferstream {name}" in shown.output
        assert "--config" in shown.output
        assert "--set" in shown.output


WITH_EXAMPLES = [
    *([name] for name in COMMANDS),
    *(["models", name] for name in ("list", "show", "register", "delete", "alias")),
    *(["topics", name] for name in ("create", "check")),
]


@pytest.mark.parametrize("command", WITH_EXAMPLES)
def test_the_settings_of_examples_are_accepted(command: list[str], command_line: CommandLine) -> None:
    _, _, shown = command_line(*command, "--help").output.partition("Examples")
    for line in shown.splitlines():
        words = shlex.split(line)
        values = [value for option, value in itertools.pairwise(words) if option == "--set"]
        if values:
            checked = command_line("config", *(word for value in values for word in ("--set", value)))
            assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize("command", WITH_EXAMPLES)
def test_examples_are_copied_whole_from_a_terminal_of_80_columns(
    command: list[str], command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, _, shown = command_line(*command, "--help").output.partition("Examples")
    assert [line for line in shown.splitlines() if line.strip() and not line.startswith(" $ ")] == []


@pytest.mark.processes
def test_sending_a_request_needs_only_the_core() -> None:
    imported = modules_after("send", "--help")
    assert "streams.cli.send" in imported
    assert not imported.intersection(HEAVY)


def test_the_version_is_printed(command_line: CommandLine) -> None:
    shown = command_line("--version")
    assert shown.exit_code == 0
    assert shown.output.startswith("inferstream ")


def test_a_mistyped_command_is_told_the_nearest(command_line: CommandLine) -> None:
    shown = command_line("wroker")
    assert shown.exit_code == 2
    assert "Did you mean 'worker'?" in shown.output


@pytest.mark.parametrize("is_before", [True, False])
def test_global_options_stand_before_or_after_the_command(
    is_before: bool, command_line: CommandLine, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("kafka: {group_id: from-file}\n")
    options = ("--config", str(file), "--set", "http.port=1", "--set", "worker.tasks=asr", "--verbose")
    command = ("config", "--format", "json")
    shown = command_line(*options, *command) if is_before else command_line(*command, *options)
    assert shown.exit_code == 0, shown.output
    tree = json.loads(shown.output)
    assert tree["kafka"]["group_id"]["value"] == "from-file"
    assert tree["http"]["port"] == {"value": 1, "origin": "command line"}
    assert tree["worker"]["tasks"]["value"] == ["asr"]
    assert tree["logging"]["level"]["value"] == "DEBUG"


def test_settings_before_and_after_the_command_add_up(command_line: CommandLine) -> None:
    shown = command_line("--set", "http.port=1", "config", "-f", "json", "--set", "kafka.group_id=x")
    tree = json.loads(shown.output)
    assert (tree["http"]["port"]["value"], tree["kafka"]["group_id"]["value"]) == (1, "x")


def test_wrong_settings_are_shown_one_a_line_without_a_stack_trace(command_line: CommandLine) -> None:
    shown = command_line("config", "--set", "kafka.grop_id=x", "--set", "http.port=many")
    assert shown.exit_code == 2
    assert shown.stdout == ""
    lines = shown.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0] == "✗ kafka.grop_id='x' (command line): no such setting; did you mean kafka.group_id?"
    assert lines[1].startswith("✗ http.port='many' (command line): allowed: a whole number")


@pytest.mark.parametrize(
    ("task", "said"),
    [("asrr", "did you mean asr?"), ("sums", "(known: asr, ")],
)
def test_a_task_without_topics_is_told_the_nearest(
    task: str, said: str, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def missing(_kafka: object, tasks: list[str]) -> list[TopicProblem]:
        return [TopicProblem.missing(f"inference.requests.{one}") for one in tasks]

    monkeypatch.setattr("streams.kafka.topic_admin.check_topics", missing)
    monkeypatch.setenv("COLUMNS", "300")
    shown = command_line("send", task, "m", "text")
    assert shown.exit_code == 2
    assert f"'{task}' has no topics here" in shown.stderr
    assert said in shown.stderr
    known = command_line("send", "asr", "m", "s3://b/k")
    assert known.exit_code == 1
    assert "inferstream topics create" in known.stderr


def test_topics_tell_programs_what_is_wrong_and_what_was_made(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def found(_kafka: object, tasks: list[str]) -> list[TopicProblem]:
        return [TopicProblem.missing(f"inference.requests.{one}") for one in tasks]

    async def made(_kafka: object, tasks: list[str]) -> list[str]:
        return [f"inference.requests.{one}" for one in tasks]

    monkeypatch.setattr("streams.kafka.topic_admin.check_topics", found)
    monkeypatch.setattr("streams.kafka.topic_admin.create_topics", made)
    checked = command_line("topics", "check", "--task", "asr", "--json")
    assert checked.exit_code == 1
    topics = {one.pop("topic"): one for one in json.loads(checked.stdout)["topics"]}
    assert topics["inference.requests.asr"] == {
        "ok": False,
        "problem": "does not exist",
        "cure": "run: inferstream topics create",
    }
    assert topics["inference.results.asr"] == {"ok": True, "problem": None, "cure": None}
    created = command_line("topics", "create", "--task", "asr", "--json")
    assert created.exit_code == 0
    topics = {one.pop("topic"): one for one in json.loads(created.stdout)["topics"]}
    partitions = Settings().kafka.partitions
    assert topics["inference.requests.asr"] == {"changed": True, "partitions": partitions}
    assert topics["inference.events"] == {"changed": False, "partitions": partitions}


def test_a_text_is_read_from_standard_input(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Request] = []

    async def late(_settings: object, request: Request, *_: object) -> None:
        sent.append(request)
        raise NoAnswer("no result came", request.id)

    monkeypatch.setattr("streams.cli.send._infer", late)
    shown = command_line("send", "text-generation", "m", "-", "--option", "stop=x=", input="Name a colour.")
    assert (sent[0].data, sent[0].options) == ({"inputs": "Name a colour."}, {"stop": "x="})
    assert (shown.exit_code, shown.stderr) == (1, "✗ no result came\n"), "no misuse of the command"


@pytest.mark.parametrize(("task", "has_note"), [("word-count", True), ("text-generation", False)])
def test_where_a_task_of_a_plugin_refuses_the_input_its_field_is_told(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, task: str, has_note: bool
) -> None:
    async def refused(_settings: object, request: Request, *_: object) -> Result:
        assert request.data == {"inputs": "a text"}
        error = ResultError("INVALID_INPUT", "data has no field text", retryable=False)
        about: dict[str, Any] = {"id": "1", "engine": "e", "model_name": "m", "processing_time": 0.1, "timestamp": 0.0}
        return Result(success=False, task=request.task, error=error, **about)

    monkeypatch.setattr("streams.cli.send._infer", refused)
    shown = command_line("send", task, "m", "a text")
    assert shown.exit_code == 1
    assert ("INPUT was sent as data.inputs" in shown.stderr) == has_note


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("text", "--timeout", "0"), "0 is not a number of seconds above 0"),
        (("text", "--timeout", "-1.5"), "-1.5 is not a number of seconds above 0"),
        (("text", "--timeout", "nan"), "nan is not a number of seconds above 0"),
        (("text", "--option", "=1"), "'=1' is not NAME=VALUE"),
        (("text", "--option", "seed"), "'seed' is not NAME=VALUE"),
        (("text", "--data", '{"inputs": "other"}'), "INPUT and --data both give inputs"),
        (("text", "--data", "[1]"), "must be a JSON object"),
        (("text", "--data", "{1"), "not JSON: Expecting"),
        (("text", "--data", "[" * 100_000), "not JSON: "),
    ],
)
def test_what_a_request_cannot_be_made_of_is_said_before_any_broker_is_asked(
    arguments: tuple[str, ...], said: str, command_line: CommandLine
) -> None:
    shown = command_line("send", "text-generation", "m", *arguments)
    assert (shown.exit_code, said in shown.stderr) == (2, True), shown.stderr


def test_a_command_tells_of_a_broker_that_is_away_in_one_line(command_line: CommandLine) -> None:
    shown = command_line("topics", "check", "--set", "kafka.bootstrap_servers=127.0.0.1:1")
    assert shown.exit_code == 1
    assert shown.stderr.startswith("✗ no broker answers at kafka.bootstrap_servers=127.0.0.1:1: nothing listens there")
    assert len(shown.stderr.splitlines()) == 1


def test_a_command_tells_of_a_registry_that_is_away_in_one_line(command_line: CommandLine) -> None:
    away = ("--set", "mlflow.tracking_uri=http://127.0.0.1:1", "--set", "mlflow.max_retries=0")
    shown = command_line("models", "show", "whisper", *away)
    assert shown.exit_code == 1
    assert "http://127.0.0.1:1" in shown.stderr
    assert "nothing listens there" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


@pytest.mark.parametrize(("file", "named"), [("/data/model.bin", "/data/model.bin: "), (None, "")])
def test_a_file_that_the_system_refuses_is_said_in_a_sentence(
    file: str | None, named: str, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file)  # without one from a write, as to /dev/full

    monkeypatch.setattr("streams.cli.config.shown_settings", full)
    shown = command_line("config")
    assert shown.exit_code == 1
    assert shown.stderr == (f"✗ {named}No space left on device; free some space, or name a place on another disk\n")


@pytest.mark.processes
def test_a_command_runs_where_its_caller_closed_the_streams() -> None:
    script = "import sys; sys.stdin = sys.stdout = sys.stderr = None; from streams.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script, "config"], check=False)
    assert done.returncode == 0


@pytest.mark.processes
def test_a_missing_extra_is_named_with_the_command_that_installs_it() -> None:
    script = "import sys; sys.modules['faust'] = None; from streams.cli import main; main()"
    command = [sys.executable, "-c", script, "worker", "--config", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["✗ this command needs faust: pip install 'inferstream[worker]'"]


def test_a_missing_module_of_no_extra_is_a_fault_of_ours(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.delitem(sys.modules, "engines.configuration")
    shown = command_line("config")
    assert isinstance(shown.exception, ModuleNotFoundError)
