"""Models by reference: fetched from the hub whole, at their revision and within bounds, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from engines.models.resolved_model import ResolvedModel
from handlers.errors import ModelLoadFailed
from tests.unit.engines.models.hub.fake_hub import (
    COMMIT,
    FILES,
    MODEL,
    USELESS,
    FakeHub,
    away,
    content,
    fetch,
)


def test_a_reference_that_is_no_hub_name_is_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="m/1"):
        fetch(ResolvedModel("m", "1", "hf://org/tiny/too/long"), tmp_path / "files")


def test_a_hub_that_answers_is_asked_for_the_revision_and_its_notes_are_left_out(hub: FakeHub, tmp_path: Path) -> None:
    hub.files = {**FILES, "odd[1].json": b"[]"}
    pinned = ResolvedModel("m", "1", "hf://org/tiny", {"revision": "v1"})
    assert content(fetch(pinned, tmp_path / "files")) == hub.files
    assert hub.asked[0] == "/api/models/org/tiny/revision/v1"
    assert all(f"/resolve/{COMMIT}/" in path for path in hub.fetched)


def test_a_model_too_large_is_refused_before_any_of_it_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    hub.files = {**FILES, **USELESS}
    needed = sum(map(len, FILES.values()))
    with pytest.raises(ModelLoadFailed) as caught:
        fetch(MODEL, tmp_path / "files", max_bytes=needed - 1)
    assert caught.value.message == (
        f"model m/1: hf://org/tiny at revision main has {needed} bytes to fetch in 3 files; "
        f"cache.directory_max_bytes allows {needed - 1}: raise it, or name a smaller model"
    )
    assert hub.fetched == []
    assert content(fetch(MODEL, tmp_path / "files", max_bytes=needed)) == FILES


def test_a_model_behind_a_gate_says_at_its_load_what_to_set(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    hub.files, hub.about, hub.token = FILES, {"gated": "manual"}, "hf_good"
    with pytest.raises(ModelLoadFailed, match=r"m/1, hf://org/tiny: .* behind a gate.* not let in; .* set HF_TOKEN"):
        fetch(MODEL, tmp_path / "files")
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize(
    "error", [RuntimeError("xet: the line broke"), httpx.ProxyError("no proxy"), OSError("the line broke")]
)
def test_a_download_that_breaks_off_leaves_nothing_and_may_be_tried_again(
    tmp_path: Path, hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import huggingface_hub

    real = huggingface_hub.snapshot_download
    hub.files = FILES

    def download(repo_id: str, **how: Any) -> Any:
        if "local_dir" not in how:
            return real(repo_id, **how)
        how["local_dir"].mkdir()
        (how["local_dir"] / "config.json").write_bytes(b"{}")
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert type(error).__name__ in away(tmp_path)
