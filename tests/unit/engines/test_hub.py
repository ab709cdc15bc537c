"""Models by reference: fetched from the hub, from its cache where it is away, and never by halves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from engines.hub import fetch_from_hub, pinned_revision, snapshot_in
from engines.resolved_model import ResolvedModel
from handlers.errors import InvalidRequest, ModelLoadFailed, RegistryUnavailable

# The tests run with HF_HUB_OFFLINE=1, which the hub's client treats like a line that is down.
COMMIT, OLDER = "a" * 40, "b" * 40
MODEL = ResolvedModel("m", "1", "hf://org/tiny", {"repo_id": "org/tiny"})
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "sub/more.txt": b"more"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the hub's client keeps what it downloaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def keep(cache: Path, files: dict[str, bytes], *, commit: str = COMMIT, ref: str | None = "main") -> Path:
    """Keep `files` in the cache as the hub's client does: blobs, and links to them."""
    cached = cache / "models--org--tiny"
    for name, content in files.items():
        blob = cached / "blobs" / f"{abs(hash((name, content))):x}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = cached / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if ref is not None:
        (cached / "refs").mkdir(exist_ok=True)
        (cached / "refs" / ref).write_text(commit)
    return cached


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def away(tmp_path: Path, model: ResolvedModel = MODEL) -> str:
    with pytest.raises(RegistryUnavailable) as caught:
        fetch_from_hub(model, tmp_path / "files")
    assert not (tmp_path / "files").exists(), "nothing half-finished is left"
    return caught.value.message


def test_without_hub_and_cache_the_error_names_hf_home_and_the_cures(tmp_path: Path, cache: Path) -> None:
    message = away(tmp_path)
    assert f"({cache}, under HF_HOME) does not have it at revision main" in message
    assert "hf download org/tiny --revision main" in message
    assert "register its folder" in message


def test_a_reference_that_is_no_hub_name_is_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="m/1"):
        fetch_from_hub(ResolvedModel("m", "1", "hf://org/tiny/too/long"), tmp_path / "files")


def test_where_the_hub_is_away_its_cache_serves(tmp_path: Path, cache: Path) -> None:
    keep(cache, FILES)
    fetched = fetch_from_hub(MODEL, tmp_path / "files")
    assert content(fetched) == FILES
    assert not any(path.is_symlink() for path in fetched.rglob("*"))


def test_the_revision_of_the_tag_is_the_one_that_is_taken(tmp_path: Path, cache: Path) -> None:
    keep(cache, FILES)
    keep(cache, {**FILES, "config.json": b'{"older": 1}'}, commit=OLDER, ref=None)
    pinned = ResolvedModel("m", "1", "hf://org/tiny", {"revision": OLDER})
    assert content(fetch_from_hub(pinned, tmp_path / "files"))["config.json"] == b'{"older": 1}'
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


def test_a_hub_that_answers_is_asked_for_the_revision_and_its_notes_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def download(repo_id: str, *, revision: str | None, local_dir: Path) -> str:
        asked.append((repo_id, revision))
        (local_dir / ".cache" / "huggingface").mkdir(parents=True)
        (local_dir / ".cache" / "huggingface" / "config.json.metadata").write_text("notes")
        (local_dir / "config.json").write_bytes(b"{}")
        return str(local_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    pinned = ResolvedModel("m", "1", "hf://org/tiny", {"revision": COMMIT})
    assert content(fetch_from_hub(pinned, tmp_path / "files")) == {"config.json": b"{}"}
    assert asked == [("org/tiny", COMMIT)]


@pytest.mark.parametrize("error", [httpx.ProxyError("no proxy"), OSError("the line broke")])
def test_a_download_that_breaks_off_leaves_nothing_and_may_be_tried_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import huggingface_hub

    real = huggingface_hub.snapshot_download

    def download(repo_id: str, **how: Any) -> Any:
        if "local_dir" not in how:
            return real(repo_id, **how)
        how["local_dir"].mkdir()
        (how["local_dir"] / "config.json").write_bytes(b"{}")
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert type(error).__name__ in away(tmp_path)


def test_the_commit_of_a_branch_is_learned_from_the_hub_or_else_from_its_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pinned_revision("org/tiny", None) is None
    keep(cache, FILES)
    keep(cache, FILES, commit=OLDER, ref="v1")
    assert pinned_revision("org/tiny", None) == COMMIT
    assert pinned_revision("org/tiny", "v1") == OLDER

    class Info:
        sha = "d" * 40

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: Info)
    assert pinned_revision("org/tiny", "v1") == "d" * 40


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
