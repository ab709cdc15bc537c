"""`inferstream options`: the table, one task's options, their schema, the page for the docs."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from handlers.ocr import OcrHandler
from handlers.options.options import OPTIONS, OptionSpec, options_of, options_page
from handlers.options.spec import schema_of
from handlers.registry import HandlerRegistry
from streams.cli.command_line import app

module = importlib.import_module("streams.cli.options")  # the package has the command under that name


def run(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(app, ["options", *arguments], env={"COLUMNS": "140", **environment})


def test_every_option_is_in_the_table() -> None:
    shown = run()
    assert shown.exit_code == 0
    assert "max_new_tokens" in shown.output
    assert "(ollama: num_predict)" in shown.output
    assert "mirostat" in shown.output


def test_one_tasks_options_are_shown_without_those_of_others() -> None:
    shown = run("asr").output
    assert "timestamps" in shown
    assert "top_p" not in shown


def test_one_engines_options_are_shown_without_those_of_others() -> None:
    shown = run("vlm", "--engine", "transformers").output
    assert "num_beams" in shown
    assert "mirostat" not in shown


def test_the_schema_is_printed_as_json() -> None:
    schema = schema_of(options_of("vlm"), "ollama", title="options of vlm")
    assert json.loads(run("vlm", "--engine", "ollama", "--json").output) == schema


def test_the_page_for_the_docs_is_printed_as_it_is() -> None:
    assert run("--markdown").output == options_page()


@pytest.mark.parametrize("declared", [{"depth": OptionSpec("depth", "integer", "How deep.", 1, 9)}, None])
def test_the_options_of_a_task_of_ones_own_are_shown(
    declared: dict[str, OptionSpec] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = HandlerRegistry()
    registry.register_handler_manually(
        "mine", "mine", type("Mine", (OcrHandler,), {"task": "mine", "options": declared})
    )
    monkeypatch.setattr(module, "model_registry", registry)
    shown, schema = run("mine").output, json.loads(run("mine", "--json").output)
    assert ("depth" in shown) is (declared is not None)
    assert ("gets any, unchecked but for these" in shown) is (declared is None)
    assert schema == schema_of(declared or OPTIONS, title="options of mine", others_pass=declared is None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["asrr"], "did you mean asr?"),
        (["--json"], "name it"),
        (["--nonsense"], "--nonsense"),
        (["--engine", "olama"], "'olama' is none of ollama, transformers"),
        (["asr", "--engine", "olama", "--json"], "'olama' is none of ollama, transformers"),
    ],
)
def test_a_wrong_call_is_told_what_is_right(arguments: list[str], says: str) -> None:
    shown = run(*arguments, COLUMNS="200")
    assert shown.exit_code == 2
    assert says in shown.output
