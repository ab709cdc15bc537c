"""The tree of settings: documented, bounded, consistent, and the same as its committed sample."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr, ValidationError

from engines.config.settings import EngineSettings
from engines.config.settings_tree import leaves
from engines.configuration import ConfigurationError, load
from streams.cli.config import sample_lines
from streams.settings import KafkaSettings, S3Settings, Settings, WorkerSettings

SAMPLE = Path(__file__).parents[3] / "docs" / "settings.sample.yaml"
TREE = leaves(Settings)
LENGTHS_OF_MEDIA = {"media.max_audio_s", "media.max_video_s", "transformers.batch_audio_s"}


def refusal_of(section: type[Any], **values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        section(**values)
    return str(caught.value)


@pytest.mark.parametrize("key", TREE)
def test_every_setting_is_documented_and_its_default_is_allowed(key: str) -> None:
    leaf = TREE[key]
    assert leaf.field.description, f"{key} has no description"
    assert leaf.field.description.endswith("."), f"{key}: a description is a sentence"
    assert leaf.allowed


def test_numbers_are_bounded_below() -> None:
    loose = [
        key
        for key, leaf in TREE.items()
        if leaf.kind in (int, float) and not any(hasattr(m, "gt") or hasattr(m, "ge") for m in leaf.field.metadata)
    ]
    assert loose == []


@pytest.mark.parametrize("key", [key for key, leaf in TREE.items() if leaf.kind is float])
def test_a_number_is_finite_and_a_wait_one_that_a_thread_can_wait(key: str) -> None:
    numbers = ["nan", "inf", "-inf", "1e400"] if key in LENGTHS_OF_MEDIA else ["nan", "inf", "-inf", "1e12"]
    for number in numbers:
        with pytest.raises(ConfigurationError, match=rf"^{key}=.*finite number|^{key}=.*allowed: .*at most"):
            load(Settings, environ={}, overrides=[f"{key}={number}"])


def test_engines_pass_over_exactly_the_sections_that_streams_adds() -> None:
    added = set(Settings.model_fields) - set(EngineSettings.model_fields)
    assert added == EngineSettings.foreign_sections


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().kafka.group_id = "x"


def test_the_committed_sample_is_current() -> None:
    assert SAMPLE.read_text(encoding="utf-8") == "\n".join([*sample_lines(), ""]), (
        "run: inferstream config --sample > docs/settings.sample.yaml"
    )


def test_the_sample_as_it_is_changes_nothing() -> None:
    assert set(load(Settings, config_file=SAMPLE, environ={}).origins.values()) == {"default"}


def test_the_sample_with_every_line_active_names_every_setting_and_is_valid(tmp_path: Path) -> None:
    active = tmp_path / "active.yaml"
    active.write_text(re.sub(r"(?m)^  #(?! )", "  ", SAMPLE.read_text(encoding="utf-8")), encoding="utf-8")
    sections = yaml.safe_load(active.read_text())
    assert sections.pop("engines") is None, "only engines of one's own know what can be set for them"
    named = {f"{section}.{name}" for section, body in sections.items() for name in body}
    assert named == set(TREE)
    loaded = load(Settings, config_file=active, environ={})
    examples = {key for key, leaf in TREE.items() if leaf.field.examples}
    defaults = load(Settings, environ={"INFERSTREAM_CONFIG": "/dev/null"}).settings
    for key in set(TREE) - examples:
        section, _, name = key.partition(".")
        assert getattr(getattr(loaded.settings, section), name) == getattr(getattr(defaults, section), name), key


def test_a_heartbeat_must_fit_three_times_into_a_session() -> None:
    assert "more than a third" in refusal_of(KafkaSettings, session_timeout_s=6)
    assert KafkaSettings(session_timeout_s=6, heartbeat_interval_s=2).session_timeout_s == 6


def test_an_empty_fetch_must_fit_into_a_request() -> None:
    said = refusal_of(KafkaSettings, request_timeout_s=5, fetch_max_wait_ms=5000)
    assert "kafka.fetch_max_wait_ms=5000 is not below kafka.request_timeout_s=5" in said


def test_a_login_needs_its_mechanism_user_and_password() -> None:
    said = refusal_of(KafkaSettings, security_protocol="SASL_SSL", sasl_mechanism="PLAIN", sasl_username="me")
    assert "kafka.security_protocol=SASL_SSL also needs kafka.sasl_password" in said
    assert KafkaSettings(
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        sasl_username="me",
        sasl_password=SecretStr("pw"),
    ).sasl_password


def test_a_login_without_a_protocol_that_logs_in_is_refused() -> None:
    assert "has no effect" in refusal_of(KafkaSettings, sasl_mechanism="PLAIN")


def test_certificates_without_tls_are_refused() -> None:
    assert "kafka.ssl_cafile has no effect" in refusal_of(KafkaSettings, ssl_cafile="/ca.pem")


@pytest.mark.parametrize("servers", ["localhost", "a:9092,", "a:9092, b:9092", "http://a:9092", ""])
def test_brokers_are_hosts_with_ports(servers: str) -> None:
    assert refusal_of(KafkaSettings, bootstrap_servers=servers)


def test_an_s3_key_needs_its_secret() -> None:
    said = refusal_of(S3Settings, access_key="me")
    assert "s3.access_key is set and s3.secret_key is not" in said
    assert "s3.secret_key is set" in refusal_of(S3Settings, secret_key="x")
    assert "s3.session_token is set and s3.access_key is not" in refusal_of(S3Settings, session_token="t")


def test_reply_topics_are_regular_expressions() -> None:
    assert "is not a regular expression" in refusal_of(WorkerSettings, reply_topics=("team-[",))


def test_a_batch_that_never_fills_is_refused() -> None:
    assert "can never be reached" in refusal_of(WorkerSettings, max_in_flight=8)


def test_the_largest_media_value_must_fit_in_memory() -> None:
    said = refusal_of(Settings, media={"max_bytes": 2_000_000}, worker={"max_in_flight_bytes": 1_000_000})
    assert "media.max_bytes=2000000 is above worker.max_in_flight_bytes=1000000" in said


def test_secrets_do_not_show_when_printed() -> None:
    settings = Settings(s3=S3Settings(access_key="me", secret_key=SecretStr("hunter2")))
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
