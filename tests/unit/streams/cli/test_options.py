"""`inferstream options`: the table, one task's options, their schema, the page for the docs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from handlers.options.options import options_of, options_page
from handlers.options.spec import schema_of
from streams.cli.command_line import app


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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["asrr"], "is none of asr"),
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
