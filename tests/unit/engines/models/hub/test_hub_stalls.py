"""A hub that stops in the middle of what it says: nobody waits for it without end, and the load may be tried again."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.cache.loader import ModelLoading
from engines.config.settings import CacheSettings, MlflowSettings
from engines.models import hub as hub_module
from engines.models.model_manager import ModelManager
from handlers.errors import RegistryUnavailable
from tests.unit.engines.models.hub.fake_hub import COMMIT, FILES, MODEL, FakeHub
from tests.unit.engines.models.hub.test_hub_registration import API, registered
from tests.unit.engines.parts import ShoutEngine

SILENT_S = 0.2


@pytest.fixture(autouse=True)
def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits longer than this for the next byte."""
    monkeypatch.setattr(hub_module, "_ANSWER_S", SILENT_S)
    monkeypatch.setattr(hub_module, "_PIN_TIMEOUT_S", SILENT_S)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", SILENT_S)


def load(tmp_path: Path) -> None:
    models = ModelManager(MlflowSettings(), CacheSettings(directory=tmp_path / "kept"))
    ModelLoading("shouter", "shout", MODEL, ShoutEngine(), models.files).load(lambda *_: None)


def test_a_registration_goes_on_without_the_hub(hub: FakeHub) -> None:
    hub.stalls = {API}
    assert "revision" not in registered()[1]


def test_a_load_fails_where_the_hub_does_not_say_what_it_has(hub: FakeHub, tmp_path: Path) -> None:
    hub.stalls = {API}
    with pytest.raises(RegistryUnavailable, match="the hub cannot be asked for org/tiny"):
        load(tmp_path)


@pytest.mark.waits
def test_a_load_fails_where_a_file_does_not_end(hub: FakeHub, tmp_path: Path) -> None:
    hub.files, hub.stalls = FILES, {f"/org/tiny/resolve/{COMMIT}/model.safetensors"}
    with pytest.raises(RegistryUnavailable, match="the hub cannot be asked for org/tiny"):
        load(tmp_path)
    assert len(hub.fetched) > len(FILES), "it was asked again first"
    hub.stalls.clear()
    load(tmp_path)
