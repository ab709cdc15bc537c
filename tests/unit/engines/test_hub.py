"""Models by reference: fetched from the hub, from its cache where it is away, and never by halves."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest
from huggingface_hub import close_session

from engines.hub import fetch_from_hub, pinned_revision, snapshot_in
from engines.hub_files import WantedFiles
from engines.model_files import STAMP, ModelFiles
from engines.resolved_model import ResolvedModel
from engines.settings import CacheSettings
from handlers.errors import InvalidRequest, ModelLoadFailed, RegistryUnavailable

# The tests run with HF_HUB_OFFLINE=1, which the hub's client treats like a line that is down.
COMMIT, OLDER = "a" * 40, "b" * 40
MODEL = ResolvedModel("m", "1", "hf://org/tiny", {"repo_id": "org/tiny"})
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "sub/more.txt": b"more"}


SAFE = WantedFiles()
USELESS = {
    "pytorch_model.bin": b"pickle",
    "rust_model.ot": b"rust",
    "tf_model.h5": b"tf",
    "flax_model.msgpack": b"flax",
    "onnx/model.onnx": b"onnx",
    "model.gguf": b"gguf",
    "modeling_own.py": b"code",
    "README.md": b"# Read me",
    ".gitattributes": b"",
}
WORDS = {
    "tokenizer.json": b"{}",
    "tokenizer.model": b"pieces",
    "merges.txt": b"a b",
    "vocab.txt": b"a",
    "chat_template.jinja": b"{{ messages }}",
    "detection/model.safetensors": b"weights",
}


@dataclass
class FakeHub:
    """A hub with one model, `org/tiny`: what it has, and which paths were asked for and fetched."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that answers on this machine, as the hub's client asks it."""
    state = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            name = path.partition(f"/resolve/{COMMIT}/")[2]
            if path.startswith("/api/models/org/tiny"):
                state.asked.append(path)
                siblings = [{"rfilename": one, "size": len(held)} for one, held in state.files.items()]
                body = json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": siblings}).encode()
            elif name in state.files:
                body = state.files[name]
                if with_body:
                    state.fetched.append(path)
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", f'"{sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()
    close_session()


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


def fetch(model: ResolvedModel, folder: Path, wanted: WantedFiles = SAFE, max_bytes: int = 10_000) -> Path:
    return fetch_from_hub(model, folder, wanted=wanted, max_bytes=max_bytes)


def away(tmp_path: Path, model: ResolvedModel = MODEL) -> str:
    with pytest.raises(RegistryUnavailable) as caught:
        fetch(model, tmp_path / "files")
    assert not (tmp_path / "files").exists(), "nothing half-finished is left"
    return caught.value.message


def test_without_hub_and_cache_the_error_names_hf_home_and_the_cures(tmp_path: Path, cache: Path) -> None:
    message = away(tmp_path)
    assert f"({cache}, under HF_HOME) does not have it at revision main" in message
    assert "hf download org/tiny --revision main" in message
    assert "register its folder" in message


def test_a_reference_that_is_no_hub_name_is_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="m/1"):
        fetch(ResolvedModel("m", "1", "hf://org/tiny/too/long"), tmp_path / "files")


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


def test_a_hub_that_answers_is_asked_for_the_revision_and_its_notes_are_left_out(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.files = {**FILES, "odd[1].json": b"[]"}
    pinned = ResolvedModel("m", "1", "hf://org/tiny", {"revision": "v1"})
    assert content(fetch(pinned, tmp_path / "files")) == hub.files
    assert hub.asked[0] == "/api/models/org/tiny/revision/v1"
    assert all(f"/resolve/{COMMIT}/" in path for path in hub.fetched)


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


def test_of_the_cache_too_only_what_is_of_use_is_taken(tmp_path: Path, cache: Path) -> None:
    keep(cache, {**FILES, **USELESS, **WORDS})
    assert content(fetch(MODEL, tmp_path / "files")) == {**FILES, **WORDS}


@pytest.mark.parametrize("error", [httpx.ProxyError("no proxy"), OSError("the line broke")])
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
