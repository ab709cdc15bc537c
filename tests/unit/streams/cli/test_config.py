"""`inferstream config`: every setting, its origin, and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from engines.config.settings_tree import leaves
from streams.settings import Settings
from tests.unit.streams.conftest import CommandLine

PASSWORD = ("--set", "mlflow.password=hunter2", "--set", "mlflow.tracking_uri=http://me:hunter2@host")


@pytest.mark.parametrize("form", ["table", "yaml", "json"])
def test_every_setting_is_shown_and_no_secret(form: str, command_line: CommandLine) -> None:
    shown = command_line("config", "--format", form, *PASSWORD)
    assert shown.exit_code == 0
    assert "********" in shown.output
    assert "hunter2" not in shown.output
    for key in leaves(Settings):
        assert (key if form == "table" else key.partition(".")[2]) in shown.output


def test_the_table_says_where_each_value_is_from(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inferstream.yaml").write_text("kafka:\n  group_id: mine\n")
    monkeypatch.setenv("INFERSTREAM_HTTP__PORT", "9000")
    monkeypatch.setenv("COLUMNS", "200")
    rows = {row.split()[0]: row for row in command_line("config").output.splitlines() if "." in row}
    assert "mine" in rows["kafka.group_id"]
    assert "file inferstream.yaml:2" in rows["kafka.group_id"]
    assert "env INFERSTREAM_HTTP__PORT" in rows["http.port"]
    assert "default" in rows["http.host"]


def test_a_file_that_hides_the_servers_of_up_is_told(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    local = tmp_path / ".local" / "inferstream.yaml"
    local.parent.mkdir(exist_ok=True)
    local.write_text("kafka:\n  group_id: local\n")
    assert "note:" not in command_line("config").stderr
    (tmp_path / "inferstream.yaml").write_text("kafka:\n  group_id: mine\n")
    told = command_line("config").stderr
    assert "inferstream.yaml is read, and not .local/inferstream.yaml" in told
    assert "--config .local/inferstream.yaml" in told
    assert "note:" not in command_line("--config", "inferstream.yaml", "config").stderr


def test_the_yaml_may_be_used_as_a_file_of_settings(command_line: CommandLine, tmp_path: Path) -> None:
    first = command_line("config", "-f", "yaml", "--set", "worker.tasks=asr,ocr", "--set", "worker.name=w")
    (tmp_path / "inferstream.yaml").write_text(first.output)
    assert "# command line" in first.output
    again = command_line("config", "-f", "yaml")
    assert again.exit_code == 0, again.output
    assert yaml.safe_load(again.output) == yaml.safe_load(first.output)


def test_json_has_value_and_origin_of_each(command_line: CommandLine) -> None:
    tree = json.loads(command_line("config", "-f", "json").output)
    assert tree["kafka"]["session_timeout_s"] == {"value": 60.0, "origin": "default"}
    assert {f"{section}.{name}" for section, body in tree.items() for name in body} == set(leaves(Settings))


def test_the_sample_needs_no_valid_settings(command_line: CommandLine) -> None:
    shown = command_line("config", "--sample", "--set", "nonsense=1")
    assert shown.exit_code == 0
    assert "\n  #group_id: " in shown.output


ENGINES = """\
engines:
  trigrams: {smoothing: 0.5, api_token: hunter2, address: "http://me:hunter2@host"}
  my-own: {places: [a, {password: hunter2}], no: 3}
"""


@pytest.mark.parametrize("form", ["table", "yaml", "json"])
def test_what_is_set_for_engines_of_ones_own_is_shown_and_no_secret(
    form: str, command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inferstream.yaml").write_text(ENGINES)
    monkeypatch.setenv("INFERSTREAM_ENGINES__TRIGRAMS__FLOOR", "2")
    shown = command_line("config", "--format", form, "--set", "engines.my-own.no=4")
    assert shown.exit_code == 0, shown.output
    assert "hunter2" not in shown.output
    assert "smoothing" in shown.output
    if form == "table":
        assert "engines.my-own.no" in shown.output
        return
    tree = (yaml.safe_load if form == "yaml" else json.loads)(shown.stdout)["engines"]
    assert "note: engines.my-own: no such engine" in shown.stderr
    assert set(tree) == {"trigrams", "my-own"}
    if form == "json":
        assert tree["trigrams"]["smoothing"] == {"value": 0.5, "origin": "file inferstream.yaml:2"}
        assert tree["trigrams"]["floor"]["origin"] == "env INFERSTREAM_ENGINES__TRIGRAMS__FLOOR"
        assert tree["my-own"]["no"] == {"value": "4", "origin": "command line"}
    else:
        assert tree["my-own"] == {"places": ["a", {"password": "********"}], "no": "4"}
