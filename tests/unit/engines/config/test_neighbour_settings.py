"""What neighbours' variables hold are defaults below ours, and where a value came from is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.config.settings import OllamaSettings
from engines.configuration import NEIGHBOURS, ConfigurationError, address_of_ollama_host, load
from streams.settings import Settings

ENVIRON = {
    "KAFKA_BOOTSTRAP_SERVERS": "kafka.example:9092",
    "MLFLOW_TRACKING_URI": "http://mlflow.example:5000",
    "MLFLOW_TRACKING_USERNAME": "someone",
    "MLFLOW_TRACKING_PASSWORD": "secret",
    "OLLAMA_HOST": "ollama.example",
    "AWS_ENDPOINT_URL_S3": "http://s3.example:9000",
    "AWS_REGION": "eu-central-1",
}


def test_neighbours_variables_are_defaults_and_their_origin_is_told() -> None:
    loaded = load(Settings, environ=ENVIRON)
    settings, origins = loaded.settings, loaded.origins
    assert settings.kafka.bootstrap_servers == "kafka.example:9092"
    assert settings.mlflow.tracking_uri == "http://mlflow.example:5000"
    assert settings.mlflow.username == "someone"
    assert settings.mlflow.password is not None
    assert settings.mlflow.password.get_secret_value() == "secret"
    assert settings.ollama.api_base == "http://ollama.example:11434"
    assert settings.s3.endpoint_url == "http://s3.example:9000"
    assert settings.s3.region == "eu-central-1"
    for variable in ENVIRON:
        assert origins[NEIGHBOURS[variable][0]] == f"env {variable}"


def test_everything_of_ours_goes_before_them(tmp_path: Path) -> None:
    file = tmp_path / "inferstream.yaml"
    file.write_text("mlflow: {tracking_uri: 'http://of.the.file'}\n")
    ours = {"INFERSTREAM_KAFKA__BOOTSTRAP_SERVERS": "ours:1"}
    loaded = load(
        Settings,
        config_file=file,
        environ={**ENVIRON, **ours},
        overrides=["ollama.api_base=http://on.the.line"],
    )
    assert loaded.settings.mlflow.tracking_uri == "http://of.the.file"
    assert loaded.settings.kafka.bootstrap_servers == "ours:1"
    assert loaded.settings.ollama.api_base == "http://on.the.line"


@pytest.mark.parametrize("name", [name for name, (key, _) in NEIGHBOURS.items() if key != "mlflow.password"])
def test_an_empty_variable_sets_nothing(name: str) -> None:
    assert load(Settings, environ={name: ""}).settings == load(Settings, environ={}).settings.model_copy(
        update={"worker": load(Settings, environ={name: ""}).settings.worker}
    )
    assert load(Settings, environ={name: " "}).origins[NEIGHBOURS[name][0]] == "default"


def test_the_variable_for_one_service_goes_before_that_for_all() -> None:
    both = {"AWS_ENDPOINT_URL_S3": "http://one", "AWS_ENDPOINT_URL": "http://all", "AWS_DEFAULT_REGION": "a"}
    settings = load(Settings, environ={**both, "AWS_REGION": "b"}).settings
    assert (settings.s3.endpoint_url, settings.s3.region) == ("http://one", "b")
    assert load(Settings, environ=dict(reversed(both.items()))).settings.s3.endpoint_url == "http://one"


def test_a_bad_value_names_the_variable() -> None:
    with pytest.raises(ConfigurationError, match="AWS_ENDPOINT_URL_S3"):
        load(Settings, environ={"AWS_ENDPOINT_URL_S3": "no address"})


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("ollama.example", "http://ollama.example:11434"),
        ("ollama.example:1234", "http://ollama.example:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:99", "http://127.0.0.1:99"),
        ("[::]:99", "http://127.0.0.1:99"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:99", "http://[::1]:99"),
        ("http://h", "http://h:80"),
        ("https://h", "https://h:443"),
        ("https://h:8443/base/", "https://h:8443/base"),
        ('"h:5"', "http://h:5"),
    ],
)
def test_an_ollama_host_reads_as_ollama_reads_it(host: str, address: str) -> None:
    assert address_of_ollama_host(host) == address


def test_ollamas_timeout_works_under_both_names() -> None:
    for name in ("timeout", "timeout_s"):
        loaded = load(Settings, environ={f"INFERSTREAM_OLLAMA__{name.upper()}": "7"})
        assert loaded.settings.ollama.timeout_s == 7
        assert loaded.origins["ollama.timeout_s"] == f"env INFERSTREAM_OLLAMA__{name.upper()}"
        assert OllamaSettings.model_validate({name: 7}).timeout_s == 7
    with pytest.raises(ConfigurationError, match=r"ollama\.timeout \(command line\) and ollama\.timeout_s are one"):
        load(Settings, environ={}, overrides=["ollama.timeout=1", "ollama.timeout_s=2"])
