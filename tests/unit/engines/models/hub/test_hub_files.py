"""Which files of a model on the hub are fetched: those that its engine can use and may load."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.config.settings import CacheSettings
from engines.models.hub import WantedFiles
from engines.models.model_files import STAMP, ModelFiles
from engines.models.resolved_model import ResolvedModel
from handlers.errors import ModelLoadFailed
from tests.unit.engines.models.hub.fake_hub import (
    FILES,
    MODEL,
    USELESS,
    WORDS,
    FakeHub,
    content,
    fetch,
)


def test_only_what_is_of_use_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    hub.files = {**FILES, **USELESS, **WORDS}
    assert content(fetch(MODEL, tmp_path / "files")) == {**FILES, **WORDS}
    assert {path.rpartition("/")[2] for path in hub.fetched}.isdisjoint({*USELESS})


@pytest.mark.parametrize(
    ("wanted", "more"),
    [
        (WantedFiles(code=True), {"modeling_own.py": b"code"}),
        (WantedFiles(pickle=True), {}),  # what is safe is there
    ],
)
def test_code_is_fetched_where_it_may_run_and_pickles_where_nothing_safer_is_there(
    hub: FakeHub, tmp_path: Path, wanted: WantedFiles, more: dict[str, bytes]
) -> None:
    hub.files = {**FILES, **USELESS}
    assert content(fetch(MODEL, tmp_path / "files", wanted)) == {**FILES, **more}


def test_a_model_of_pickles_alone_is_fetched_where_they_may_be_loaded_and_refused_elsewhere(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with pytest.raises(ModelLoadFailed) as caught:
        fetch(MODEL, tmp_path / "files")
    assert "has no *.safetensors weights at hf://org/tiny, only pytorch_model.bin" in caught.value.message
    assert "set transformers.allow_pickle if you trust" in caught.value.message
    assert hub.fetched == []
    assert content(fetch(MODEL, tmp_path / "files", WantedFiles(pickle=True))) == hub.files


def test_of_a_model_for_an_engine_of_ones_own_everything_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    hub.files = {**FILES, **USELESS}
    theirs = ResolvedModel("m", "1", "hf://org/tiny", {"engine": "onnx"})
    assert content(fetch(theirs, tmp_path / "files")) == hub.files


def test_what_was_fetched_under_stricter_settings_is_fetched_again_and_otherwise_kept(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.files = {**FILES, **USELESS}
    settings = CacheSettings(directory=tmp_path / "kept", directory_max_bytes=10_000)

    def held(wanted: WantedFiles) -> set[str]:
        def download(source: str, to: Path) -> Path:
            raise AssertionError(source)

        path = ModelFiles(settings, [], download, wanted).acquire(MODEL)
        return set(content(path)) - {STAMP}

    assert held(WantedFiles()) == {*FILES}
    assert held(WantedFiles(code=True)) == {*FILES, "modeling_own.py"}
    hub.files = {}
    assert held(WantedFiles(code=True)) == held(WantedFiles()) == {*FILES, "modeling_own.py"}


def test_files_of_another_revision_are_not_taken_for_those_of_a_model_registered_anew(
    hub: FakeHub, tmp_path: Path
) -> None:
    settings = CacheSettings(directory=tmp_path / "kept", directory_max_bytes=10_000)

    def acquired(revision: str) -> bytes:
        def download(source: str, to: Path) -> Path:
            raise AssertionError(source)

        model = ResolvedModel("m", "1", "hf://org/tiny", {"revision": revision})
        return (ModelFiles(settings, [], download).acquire(model) / "config.json").read_bytes()

    hub.files = FILES
    assert acquired("v1") == b"{}"
    hub.files = {**FILES, "config.json": b'{"newer": 1}'}
    assert acquired("v1") == b"{}"
    assert acquired("v2") == b'{"newer": 1}'
