"""The layers of the settings, where each value came from, and what is said of a wrong one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engines.config.settings import EngineSettings
from engines.configuration import ConfigurationError, load, mask_password_in_url
from streams.settings import Settings


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(root: type[EngineSettings] = Settings, **arguments: object) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(root, **{"environ": {}, **arguments})  # type: ignore[arg-type]
    assert str(caught.value) == "\n".join(caught.value.problems)
    return list(caught.value.problems)


def test_without_anything_given_all_are_defaults() -> None:
    loaded = load(Settings, environ={})
    assert loaded.settings == Settings(worker=loaded.settings.worker)
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.config_file is None


def test_environment_wins_over_file_and_command_line_over_both(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "kafka:\n  group_id: file\n  partitions: 2\n  replication_factor: 3\n")
    loaded = load(
        Settings,
        config_file=file,
        environ={"INFERSTREAM_KAFKA__GROUP_ID": "env", "INFERSTREAM_KAFKA__PARTITIONS": "4"},
        overrides=["kafka.group_id=line"],
    )
    kafka = loaded.settings.kafka
    assert (kafka.group_id, kafka.partitions, kafka.replication_factor) == ("line", 4, 3)
    assert loaded.origins["kafka.group_id"] == "command line"
    assert loaded.origins["kafka.partitions"] == "env INFERSTREAM_KAFKA__PARTITIONS"
    assert loaded.origins["kafka.replication_factor"] == f"file {file}:4"
    assert loaded.origins["kafka.topic_prefix"] == "default"


def test_overrides_may_be_a_mapping_with_values_of_any_type() -> None:
    loaded = load(Settings, environ={}, overrides={"worker.tasks": ["asr"], "http.port": 0})
    assert loaded.settings.worker.tasks == ("asr",)
    assert loaded.settings.http.port == 0


@pytest.mark.parametrize("text", ["asr, ocr", '["asr", "ocr"]'])
def test_a_list_in_text_is_separated_by_commas_or_is_json(text: str) -> None:
    assert load(Settings, environ={"INFERSTREAM_WORKER__TASKS": text}).settings.worker.tasks == ("asr", "ocr")


@pytest.mark.parametrize("text", ["", "null", "None"])
def test_empty_text_or_null_unsets_an_optional_setting(tmp_path: Path, text: str) -> None:
    file = write(tmp_path / "a.yaml", "kafka:\n  group_instance_id: pod-0\n")
    loaded = load(Settings, config_file=file, environ={"INFERSTREAM_KAFKA__GROUP_INSTANCE_ID": text})
    assert loaded.settings.kafka.group_instance_id is None


def test_a_tilde_in_a_path_is_the_home_folder() -> None:
    loaded = load(EngineSettings, environ={}, overrides=["cache.directory=~/models"])
    assert loaded.settings.cache.directory == Path.home() / "models"


def test_the_file_is_named_or_found_in_the_working_directory(tmp_path: Path) -> None:
    up = write(tmp_path / ".local/inferstream.yaml", "kafka: {group_id: up}\n")
    assert load(Settings, environ={}).config_file == Path(".local/inferstream.yaml")
    write(tmp_path / "inferstream.yaml", "kafka: {group_id: here}\n")
    assert load(Settings, environ={}).settings.kafka.group_id == "here"
    by_variable = {"INFERSTREAM_CONFIG": str(up)}
    assert load(Settings, environ=by_variable).settings.kafka.group_id == "up"
    named = write(tmp_path / "b.yaml", "kafka: {group_id: named}\n")
    assert load(Settings, environ=by_variable, config_file=named).settings.kafka.group_id == "named"
    assert load(Settings, environ={"INFERSTREAM_CONFIG": os.devnull}).settings.kafka.group_id == "inferstream"


def test_a_named_file_that_is_missing_says_who_named_it() -> None:
    (problem,) = problems_of(environ={"INFERSTREAM_CONFIG": "gone.yaml"})
    assert problem.startswith("gone.yaml (env INFERSTREAM_CONFIG): no such file")
    (problem,) = problems_of(config_file="gone.yaml")
    assert "(command line)" in problem


def test_a_section_with_nothing_in_it_is_fine(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "kafka:\n  # group_id: x\ns3:\n")
    assert set(load(Settings, config_file=file, environ={}).origins.values()) == {"default"}


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "kafka:\n  grop_id: x\n  partitions: many\nkafak:\n  a: 1\n")
    problems = problems_of(
        config_file=file, environ={"INFERSTREAM_HTTP__PROT": "1"}, overrides=["worker.max_in_flight=0", "x"]
    )
    assert len(problems) == 6
    text = "\n".join(problems)
    assert f"kafka.grop_id='x' (file {file}:2): no such setting; did you mean kafka.group_id?" in text
    assert f"kafka.partitions='many' (file {file}:3): allowed: a whole number above 0, at most 10000" in text
    assert f"kafak.a=1 (file {file}:5): no such setting; the sections are: mlflow, " in text
    assert "(env INFERSTREAM_HTTP__PROT): no such setting; did you mean INFERSTREAM_HTTP__PORT?" in text
    assert "worker.max_in_flight='0' (command line): allowed: a whole number above 0" in text
    assert "'x' (command line): write section.name=value" in text


def test_a_way_of_batching_that_is_not_there_is_told_those_that_are() -> None:
    (problem,) = problems_of(overrides=["transformers.batching=continuous"])
    assert "transformers.batching='continuous' (command line): allowed: one of in-flight, micro. " in problem
    assert "in-flight, requests join the running batch" in problem


def test_a_name_from_another_section_is_pointed_to() -> None:
    (problem,) = problems_of(overrides=["worker.group_id=x"])
    assert "did you mean kafka.group_id?" in problem


def test_a_variable_that_names_only_a_section_is_an_error() -> None:
    (problem,) = problems_of(environ={"INFERSTREAM_KAFKA": '{"sasl_password": "hunter2"}'})
    assert "section kafka has: bootstrap_servers, " in problem
    assert "hunter2" not in problem


def test_variables_of_others_are_left_alone() -> None:
    loaded = load(Settings, environ={"KAFKA__GROUP_ID": "x", "INFERSTREAMER": "y"})
    assert set(loaded.origins.values()) == {"default"}


@pytest.mark.parametrize(
    "given",
    [
        ["kafka.sasl_password_s=hunter2"],
        ["kafka.sasl_pasword=hunter2"],
        ["s3.secret_kye=hunter2"],
        ["other.api_token=hunter2"],
        ["mlflow.tracking_uri_=http://me:hunter2@host"],
        ["kafka.bootstrap_servers=sasl://me:hunter2@host"],
    ],
)
def test_a_secret_is_never_in_a_message(given: list[str]) -> None:
    assert "hunter2" not in "".join(problems_of(overrides=given))


def test_a_bad_value_of_a_secret_is_masked(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "mlflow:\n  password: 12345\n")
    (problem,) = problems_of(config_file=file)
    assert problem.startswith(f"mlflow.password=******** (file {file}:2): allowed: text, or null; put it in quotes")


def test_true_is_no_number(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "kafka:\n  partitions: yes\n")
    assert "kafka.partitions=True" in problems_of(config_file=file)[0]


def test_a_contradiction_names_both_settings_and_where_they_are_from() -> None:
    (problem,) = problems_of(environ={"INFERSTREAM_KAFKA__SESSION_TIMEOUT_S": "6"})
    assert "kafka.heartbeat_interval_s=10 is more than a third of kafka.session_timeout_s=6" in problem
    assert "set kafka.heartbeat_interval_s to 2 or less" in problem
    assert "kafka.session_timeout_s: env INFERSTREAM_KAFKA__SESSION_TIMEOUT_S" in problem
    assert "kafka.heartbeat_interval_s: default" in problem


def test_several_contradictions_are_several_problems() -> None:
    problems = problems_of(overrides=["kafka.session_timeout_s=6", "kafka.ssl_keyfile=/k"])
    assert len(problems) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kafka: [1, 2]\n", "section kafka must be a mapping of names to values"),
        ("just text\n", "the file must be a mapping of names to values"),
        ("kafka:\n  group_id: a\n  group_id: b\n", "kafka.group_id is set twice"),
        ("kafka: {\n", "not readable as YAML"),
        ("kafka:\n  group_id: !!python/object:os.system x\n", "not readable as YAML"),
    ],
)
def test_a_broken_file_is_told_with_its_name(tmp_path: Path, text: str, said: str) -> None:
    file = write(tmp_path / "a.yaml", text)
    (problem,) = problems_of(config_file=file)
    assert str(file) in problem
    assert said in problem


def test_the_engines_pass_over_the_sections_of_streams_but_not_over_typos(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "kafka: {group_id: x}\nmlflow: {timeout_s: 3}\n")
    loaded = load(EngineSettings, config_file=file, environ={"INFERSTREAM_WORKER__NOPE": "1"})
    assert loaded.settings.mlflow.timeout_s == 3
    assert not any(key.startswith("kafka.") for key in loaded.origins)
    (problem,) = problems_of(EngineSettings, overrides=["mlfow.timeout_s=3"])
    assert "did you mean mlflow.timeout_s?" in problem


def test_settings_of_engines_of_ones_own_are_kept_as_they_were_written_each_with_its_origin(
    tmp_path: Path,
) -> None:
    file = write(
        tmp_path / "a.yaml",
        "engines:\n  trigrams: {smoothing: 0.5, floor: 1}\n  my.own-one:\n    level: 2\n  no:\n",
    )
    loaded = load(
        Settings,
        config_file=file,
        environ={
            "INFERSTREAM_ENGINES__TRIGRAMS__MAX_LETTERS": "9",
            "INFERSTREAM_ENGINES__TRIGRAMS__FLOOR": "2",
        },
        overrides=["engines.trigrams.floor=3"],
    )
    engines = loaded.settings.engines
    assert engines.names() == ["trigrams", "my.own-one"]
    values = {name: (one.value, one.origin) for name, one in engines.of("trigrams").items()}
    assert values == {
        "smoothing": (0.5, f"file {file}:2"),
        "max_letters": ("9", "env INFERSTREAM_ENGINES__TRIGRAMS__MAX_LETTERS"),
        "floor": ("3", "command line"),
    }
    assert engines.of("my.own-one")["level"].value == 2
    assert loaded.origins["engines.trigrams.floor"] == "command line"
    assert loaded.origins["engines.my.own-one.level"] == f"file {file}:4"


@pytest.mark.parametrize("given", ["engines.trigrams=hunter2", "engines=hunter2", "engines.a.=hunter2"])
def test_settings_of_an_engine_are_given_one_by_one(given: str) -> None:
    (problem,) = problems_of(overrides=[given])
    assert "write engines.<name>.<setting>" in problem
    assert "hunter2" not in problem


def test_an_engine_of_ones_own_is_a_mapping_in_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "engines:\n  trigrams: 5\n")
    (problem,) = problems_of(config_file=file)
    assert "section engines.trigrams must be a mapping of names to values" in problem


def test_the_environment_of_the_process_is_read_unless_another_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INFERSTREAM_MLFLOW__TIMEOUT_S", "4")
    assert load(EngineSettings).settings.mlflow.timeout_s == 4
    assert EngineSettings().mlflow.timeout_s == 10, "built directly, nothing is read"


def test_passwords_in_addresses_are_masked() -> None:
    assert mask_password_in_url("see http://me:pw@host/x and s3://b/k") == "see http://me:********@host/x and s3://b/k"


def test_variables_of_the_tests_are_no_settings() -> None:
    loaded = load(Settings, environ={"INFERSTREAM_TEST_KAFKA_HOME": "/opt/kafka"})
    assert set(loaded.origins.values()) == {"default"}
