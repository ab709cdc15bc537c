"""What the hub says of a model when it is registered: refused where it has none, told where nobody knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from structlog.testing import capture_logs

from engines.models.registration import register
from handlers.errors import InvalidRequest
from tests.unit.engines.models.hub.fake_hub import COMMIT, FILES, USELESS, FakeHub, keep

API = "/api/models/org/tiny"


def registered(path: str = "hf://org/tiny", **tags: str) -> Any:
    """Register by reference; return source and tags of the version that was made."""
    registry = MagicMock()
    registry.newest.return_value = None
    register(registry, model_name="m", model_source="huggingface", model_path=path, tags=tags)
    return registry.create_version.call_args.args[1:]


def test_a_model_that_the_hub_has_is_registered_with_its_commit(hub: FakeHub) -> None:
    hub.files = FILES
    source, tags = registered()
    assert (source, tags["revision"]) == ("hf://org/tiny", COMMIT)


@pytest.mark.parametrize("answer", [(404, "RepoNotFound"), (401, "RepoNotFound"), (404, "")])
def test_a_model_that_the_hub_does_not_have_is_refused(hub: FakeHub, answer: tuple[int, str]) -> None:
    hub.refusals[API] = answer
    with pytest.raises(InvalidRequest, match="hf://org/tiny: the hub has no such model, or shows it only"):
        registered()


def test_a_name_that_the_hub_never_has_is_refused(hub: FakeHub) -> None:
    with pytest.raises(InvalidRequest, match="has no such model"):
        registered("hf://org/tiny..model")


def test_a_revision_that_the_hub_does_not_have_is_refused(hub: FakeHub) -> None:
    hub.refusals[f"{API}/revision/v9"] = (404, "RevisionNotFound")
    with pytest.raises(InvalidRequest, match="but not at revision v9; correct the tag revision"):
        registered(revision="v9")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (USELESS, "hf://org/tiny has no config.json"),
        ({"README.md": b"# Read me", ".gitattributes": b""}, "hf://org/tiny holds no model, only"),
        ({"config.json": b"{}", "tokenizer.json": b"{}"}, "hf://org/tiny has no weights"),
        (
            {"adapter_config.json": b"{}", "adapter_model.safetensors": b"a"},
            "hf://org/tiny holds a PEFT adapter",
        ),
        ({}, "hf://org/tiny holds no model, only nothing"),
    ],
)
def test_a_model_of_the_hub_that_cannot_be_loaded_is_refused(hub: FakeHub, files: dict[str, bytes], said: str) -> None:
    hub.files = files
    with pytest.raises(InvalidRequest, match=said):
        registered()


def test_files_for_an_engine_of_ones_own_are_its_own_business(hub: FakeHub) -> None:
    hub.files = {"weights.dat": b""}
    assert registered(engine="mine")[0] == "hf://org/tiny"


@pytest.mark.parametrize("answer", [(500, ""), (403, ""), (429, "")])
def test_where_the_hub_does_not_say_the_model_is_registered_and_that_is_told(
    hub: FakeHub, cache: Path, answer: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.refusals[API] = answer
    with capture_logs() as logs:
        source, tags = registered()
    assert (source, "revision" in tags) == ("hf://org/tiny", False)
    assert [(line["event"], line["log_level"]) for line in logs] == [("hub_model_not_checked", "warning")]
    keep(cache, FILES)
    with capture_logs() as logs:
        assert registered()[1]["revision"] == COMMIT
    assert logs == [], "what is in the cache of the hub's client exists"


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_token")
@pytest.mark.parametrize("about", [{"gated": "manual"}, {"gated": "auto"}, {"private": True}])
def test_a_model_behind_a_gate_is_refused_with_what_to_set(
    hub: FakeHub, about: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files, hub.about, hub.token = FILES, about, "hf_good"
    with pytest.raises(InvalidRequest) as caught:
        registered()
    for said in ("hf://org/tiny", "behind a gate", "no token is set", "set HF_TOKEN", "every worker"):
        assert said in caught.value.message
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(InvalidRequest, match="the token in use is not let in; accept its terms"):
        registered()
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    with capture_logs() as logs:
        assert registered()[1]["revision"] == COMMIT
    assert [(line["event"], line["log_level"]) for line in logs] == [("hub_model_needs_token", "warning")]


@pytest.mark.usefixtures("no_token")
def test_a_hub_that_gates_all_it_says_of_a_model_is_taken_at_its_word(hub: FakeHub) -> None:
    hub.refusals[API] = (403, "GatedRepo")
    with pytest.raises(InvalidRequest, match="behind a gate, and no token is set"):
        registered()


def test_a_token_that_the_hub_refuses_is_named(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.refusals[API] = (401, "Invalid credentials in Authorization header")
    with pytest.raises(InvalidRequest, match="refuses the token in use; correct HF_TOKEN"):
        registered()


@pytest.mark.usefixtures("no_token")
def test_an_open_model_needs_no_token(hub: FakeHub) -> None:
    hub.files, hub.about = FILES, {"gated": False, "private": False}
    with capture_logs() as logs:
        registered()
    assert logs == []
