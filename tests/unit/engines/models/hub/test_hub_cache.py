"""Where the hub is away, the cache of its client serves, and never by halves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.models.hub import find_on_hub, snapshot_in
from engines.models.resolved_model import ResolvedModel
from handlers.errors import InvalidRequest
from tests.unit.engines.models.hub.fake_hub import (
    COMMIT,
    FILES,
    MODEL,
    OLDER,
    USELESS,
    WORDS,
    away,
    content,
    fetch,
    keep,
)


def test_without_hub_and_cache_the_error_names_hf_home_and_the_cures(tmp_path: Path, cache: Path) -> None:
    message = away(tmp_path)
    assert f"({cache}, under HF_HOME) does not have it at revision main" in message
    assert "hf download org/tiny --revision main" in message
    assert "register its folder" in message


def test_where_the_hub_is_away_its_cache_serves(tmp_path: Path, cache: Path) -> None:
    keep(cache, FILES)
    fetched = fetch(MODEL, tmp_path / "files")
    assert content(fetched) == FILES
    assert not any(path.is_symlink() for path in fetched.rglob("*"))


def test_the_revision_of_the_tag_is_the_one_that_is_taken(tmp_path: Path, cache: Path) -> None:
    keep(cache, FILES)
    keep(cache, {**FILES, "config.json": b'{"older": 1}'}, commit=OLDER, ref=None)
    pinned = ResolvedModel("m", "1", "hf://org/tiny", {"revision": OLDER})
    assert content(fetch(pinned, tmp_path / "files"))["config.json"] == b'{"older": 1}'
    unknown = ResolvedModel("m", "2", "hf://org/tiny", {"revision": "c" * 40})
    assert f"does not have it at revision {'c' * 40}" in away(tmp_path / "other", unknown)


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        ({"config.json": b"{}", "tokenizer.json": b"{}"}, "weights"),
        ({"model.safetensors": b"w"}, "config.json"),
        (
            {
                **FILES,
                "model.safetensors.index.json": json.dumps(
                    {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
                ).encode(),
            },
            "model-2.safetensors",
        ),
    ],
)
def test_a_part_of_a_model_in_the_cache_is_not_used(
    tmp_path: Path, cache: Path, files: dict[str, bytes], lacks: str
) -> None:
    keep(cache, files)
    assert f"has only a part of it (without {lacks})" in away(tmp_path)


def test_a_download_into_the_cache_that_broke_off_is_not_used(tmp_path: Path, cache: Path) -> None:
    cached = keep(cache, FILES)
    (cached / "blobs" / "0123.incomplete").write_bytes(b"half")
    assert "files whose download broke off" in away(tmp_path)
    (cached / "blobs" / "0123.incomplete").unlink()
    next((cached / "blobs").iterdir()).unlink()
    assert "has only a part of it" in away(tmp_path)


def test_of_the_cache_too_only_what_is_of_use_is_taken(tmp_path: Path, cache: Path) -> None:
    keep(cache, {**FILES, **USELESS, **WORDS})
    assert content(fetch(MODEL, tmp_path / "files")) == {**FILES, **WORDS}


def test_the_commit_of_a_branch_is_learned_from_the_hub_or_else_from_its_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_on_hub("org/tiny", None) == (None, None)
    keep(cache, FILES)
    keep(cache, FILES, commit=OLDER, ref="v1")
    assert find_on_hub("org/tiny", None) == (COMMIT, None)
    assert find_on_hub("org/tiny", "v1") == (OLDER, None)

    class Info:
        sha = "d" * 40
        siblings = ()

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: Info)
    assert find_on_hub("org/tiny", "v1") == ("d" * 40, [])


def test_a_folder_of_the_cache_holds_the_snapshot_of_its_main_branch(cache: Path, tmp_path: Path) -> None:
    cached = keep(cache, FILES, ref=None)
    only = (cached / "snapshots" / COMMIT, {"repo_id": "org/tiny", "revision": COMMIT})
    assert snapshot_in(cached) == only
    keep(cache, FILES, commit=OLDER, ref=None)
    with pytest.raises(InvalidRequest, match="2 snapshots, none of them of branch main"):
        snapshot_in(cached)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    assert snapshot_in(cached) == only
    assert snapshot_in(tmp_path) is None
