"""A hub with one model, the cache of the hub's client on this machine, and what tests do with both."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engines.models.hub import WantedFiles, fetch_from_hub
from engines.models.resolved_model import ResolvedModel
from handlers.errors import RegistryUnavailable

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
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By path: the status and the code of the hub's own words for what is wrong."""
    about: dict[str, Any] = field(default_factory=dict)
    """What else it says of the model, such as {"gated": "manual"}."""
    stalls: set[str] = field(default_factory=set)
    """Paths of which it sends the first byte and no more, until the test is over."""
    goes_on: threading.Event = field(default_factory=threading.Event)
    token: str | None = None
    """Of those whom it gives the files; None for anybody."""

    def is_open_to(self, authorization: str | None) -> bool:
        return self.token is None or authorization == f"Bearer {self.token}"


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
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetch(model: ResolvedModel, folder: Path, wanted: WantedFiles = SAFE, max_bytes: int = 10_000) -> Path:
    return fetch_from_hub(model, folder, wanted=wanted, max_bytes=max_bytes)


def away(tmp_path: Path, model: ResolvedModel = MODEL) -> str:
    with pytest.raises(RegistryUnavailable) as caught:
        fetch(model, tmp_path / "files")
    assert not (tmp_path / "files").exists(), "nothing half-finished is left"
    return caught.value.message
