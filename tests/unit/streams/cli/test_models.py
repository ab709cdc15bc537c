"""`inferstream models`, on MLflow without a server: a database file of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engines.config.settings import CacheSettings, MlflowSettings
from engines.models.model_manager import ModelManager
from handlers import model_registry
from tests.unit.streams.conftest import CommandLine

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which it takes seconds to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    settings = MlflowSettings(tracking_uri=f"sqlite:///{path}")
    assert ModelManager(settings, CacheSettings(directory=path.parent)).registry.registered() == []
    return path


@pytest.fixture
def registry(empty_database: Path, tmp_path: Path, command_line: CommandLine) -> tuple[str, ...]:
    """The options that lead to an empty registry."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return (
        "--set",
        f"mlflow.tracking_uri=sqlite:///{tmp_path / 'mlflow.db'}",
        "--set",
        f"cache.directory={tmp_path}",
    )


def test_a_registered_model_is_listed_with_versions_aliases_task_engine_and_source(
    command_line: CommandLine, registry: tuple[str, ...]
) -> None:
    empty = command_line("models", "list", *registry)
    assert empty.exit_code == 0, empty.output
    assert "no model is registered" in empty.stderr

    ollama = ("models", "register", "llama", "--source", "ollama", "--task", "text-generation", *registry)
    first = command_line(*ollama, "--path", "llama3.2:1b", "--alias", "champion", "--alias", "small")
    assert first.exit_code == 0, first.output
    assert first.stdout.startswith("registered llama/1, llama@champion, llama@small from ollama://")
    again = command_line(*ollama, "--path", "llama3.2:1b")
    assert again.stdout.startswith("registered llama/1 from"), "the same again creates nothing"
    second = command_line(*ollama, "--path", "llama3.2:3b", "--tag", "team=speech")
    assert second.stdout.startswith("registered llama/2 from")

    (model,) = json.loads(command_line("models", "list", "--json", *registry).stdout)
    assert (model["name"], model["versions"], model["version"]) == ("llama", ["1", "2"], "1")
    assert model["aliases"] == {"champion": "1", "small": "1"}
    assert (model["task"], model["engine"]) == ("text-generation", "ollama")
    table = command_line("models", "list", *registry).stdout
    for cell in ("llama", "[1], 2", "champion = 1", "text-generation", "ollama"):
        assert cell in table


@pytest.mark.parametrize(
    ("arguments", "said", "exit_code"),
    [
        (
            ("--source", "floppy", "--path", "x"),
            "model_source 'floppy' is none of huggingface, ollama, local",
            1,
        ),
        (("--source", "local", "--path", "/no/such/folder"), "/no/such/folder", 1),
        (("--source", "ollama", "--path", "x", "--alias", "latest"), "alias 'latest' is kept by MLflow", 1),
        (("--source", "ollama", "--path", "x", "--tag", "novalue"), "'novalue' is not NAME=VALUE", 2),
    ],
)
def test_what_cannot_be_registered_says_why(
    arguments: tuple[str, ...],
    said: str,
    exit_code: int,
    command_line: CommandLine,
    registry: tuple[str, ...],
) -> None:
    shown = command_line("models", "register", "m", *arguments, *registry)
    assert shown.exit_code == exit_code
    assert said in " ".join(shown.stderr.split())
    assert "Traceback" not in shown.output


def test_a_task_that_nothing_serves_is_pointed_out(command_line: CommandLine, registry: tuple[str, ...]) -> None:
    shown = command_line("models", "register", "m", "--source", "ollama", "--path", "x", "--task", "asrr", *registry)
    assert shown.exit_code == 0, shown.output
    assert "note: nothing here serves task asrr" in shown.stderr


def test_an_engine_that_is_not_here_is_pointed_out(command_line: CommandLine, registry: tuple[str, ...]) -> None:
    source = ("--source", "ollama", "--path", "x", "--task", "asr", "--engine", "olama")
    shown = command_line("models", "register", "m", *source, *registry)
    assert shown.exit_code == 0, shown.output
    assert "note: nothing here is engine olama; there is " in shown.stderr


@pytest.mark.parametrize("uri", ["localhost:5000", "ftp://registry", "http://[::1"])
def test_what_is_no_address_of_a_registry_is_said_so(command_line: CommandLine, uri: str) -> None:
    shown = command_line("models", "list", "--set", f"mlflow.tracking_uri={uri}")
    assert shown.exit_code == 1
    assert "is not an address of a model registry; write http://HOST:PORT" in " ".join(shown.stderr.split())
    assert "Traceback" not in shown.output


def test_where_the_hub_cannot_be_asked_that_is_pointed_out(
    command_line: CommandLine, registry: tuple[str, ...]
) -> None:
    path = ("--path", "hf://no/such-model")
    shown = command_line("models", "register", "m", "--source", "huggingface", *path, *registry)
    assert shown.exit_code == 0, shown.output
    assert "note: the hub did not say whether it has hf://no/such-model" in shown.stderr


def test_an_alias_can_be_moved_to_another_version(command_line: CommandLine, registry: tuple[str, ...]) -> None:
    ollama = ("models", "register", "llama", "--source", "ollama", *registry)
    for path in ("llama3.2:1b", "llama3.2:3b"):
        assert command_line(*ollama, "--path", path, "--alias", "champion").exit_code == 0
    moved = command_line("models", "alias", "llama", "champion", "1", *registry)
    assert moved.stdout == "llama@champion is llama/1 now\n"
    (model,) = json.loads(command_line("models", "list", "--json", *registry).stdout)
    assert (model["version"], model["aliases"]) == ("1", {"champion": "1"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("llama", "champion", "7"), "model llama has no version 7; the newest is 1"),
        (("lama", "champion", "1"), "did you mean llama?"),
        (("llama", "latest", "1"), "alias 'latest' is kept by MLflow"),
        (("llama", "champion", "one"), "is not a model name; write name, name@alias or name/version"),
    ],
)
def test_an_alias_that_cannot_be_says_why(
    arguments: tuple[str, ...], said: str, command_line: CommandLine, registry: tuple[str, ...]
) -> None:
    command_line("models", "register", "llama", "--source", "ollama", "--path", "llama3.2:1b", *registry)
    shown = command_line("models", "alias", *arguments, *registry)
    assert shown.exit_code == 1
    assert said in " ".join(shown.stderr.split())
    assert "Traceback" not in shown.output


def test_a_model_may_serve_several_tasks(command_line: CommandLine, registry: tuple[str, ...]) -> None:
    shown = command_line(
        *("models", "register", "reader", "--source", "ollama", "--path", "reader:1b"),
        *("--task", "asr,text-generation", *registry),
    )
    assert shown.exit_code == 0
    assert "nothing here serves" not in shown.stderr


def test_a_task_of_a_plugin_is_served(
    command_line: CommandLine, registry: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served_by_plugin.py").write_text(
        "from handlers import BaseModelHandler, model_registry\n"
        "class Handler(BaseModelHandler):\n"
        "    def preprocess(self, data, options): return data\n"
        "    def postprocess(self, result, options): return result\n"
        "model_registry.register_handler_manually('of-a-plugin', 'of-a-plugin', Handler)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(model_registry, "_registered", dict(model_registry._registered))
    plugins = ("--set", "worker.plugins=served_by_plugin,not_installed_here")
    shown = command_line(
        *("models", "register", "m", "--source", "ollama", "--path", "x", "--task", "of-a-plugin"),
        *(*plugins, *registry),
    )
    assert shown.exit_code == 0, shown.output
    assert "nothing here serves" not in shown.stderr


def test_a_model_without_an_engine_is_pointed_out(
    command_line: CommandLine, registry: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "weights.bin").write_bytes(b"weights")
    arguments = (
        "models",
        "register",
        "mine",
        "--source",
        "local",
        "--path",
        str(tmp_path / "mine"),
        *registry,
    )
    assert "note: no engine is named" in command_line(*arguments).stderr
    assert "note: no engine is named" not in command_line(*arguments, "--engine", "mine").stderr


def test_a_model_is_shown_whole(command_line: CommandLine, registry: tuple[str, ...]) -> None:
    ollama = ("models", "register", "llama", "--source", "ollama", "--task", "text-generation", *registry)
    command_line(*ollama, "--path", "llama3.2:1b", "--alias", "champion")
    command_line(*ollama, "--path", "llama3.2:3b", "--tag", "team=speech")
    shown = json.loads(command_line("models", "show", "llama/2", "--json", *registry).stdout)
    assert (shown["version"], shown["versions"], shown["aliases"]) == ("2", ["1", "2"], {"champion": "1"})
    assert shown["tags"]["team"] == "speech"
    table = command_line("models", "show", "llama@champion", *registry).stdout
    for cell in ("llama3.2:1b", "champion = 1", "text-generation", "tag ollama_model_name"):
        assert cell in table
    unknown = command_line("models", "show", "lama", *registry)
    assert unknown.exit_code == 1
    assert "Traceback" not in unknown.output


def test_a_version_or_a_whole_model_is_deleted(command_line: CommandLine, registry: tuple[str, ...]) -> None:
    ollama = ("models", "register", "llama", "--source", "ollama", *registry)
    for path in ("a:1", "a:2", "a:3"):
        command_line(*ollama, "--path", path)
    assert "deleted version 2 of llama" in command_line("models", "delete", "llama/2", "--yes", *registry).stdout
    (model,) = json.loads(command_line("models", "list", "--json", *registry).stdout)
    assert model["versions"] == ["1", "3"]
    kept = command_line("models", "delete", "llama", *registry, input="n\n")
    assert kept.exit_code == 1
    assert "Delete llama with all its versions?" in kept.output
    assert command_line("models", "delete", "llama", "--yes", *registry).exit_code == 0
    assert json.loads(command_line("models", "list", "--json", *registry).stdout) == []
    command_line(*ollama, "--path", "a:1")
    assert command_line("models", "delete", "llama/1", "--yes", *registry).exit_code == 0
    assert "has no version; register one" in command_line("models", "show", "llama", *registry).output
    assert command_line("models", "delete", "llama", "--yes", *registry).exit_code == 0, "without versions too"
    for name, said in (("llama", "llama"), ("llama@champion", "an alias is moved, not deleted")):
        refused = command_line("models", "delete", name, "--yes", *registry)
        assert refused.exit_code != 0
        assert said in refused.output


def test_help_shows_flags_without_a_type(command_line: CommandLine) -> None:
    assert "bool" not in command_line("models", "list", "--help").output
    assert "bool" not in command_line("--help").output
