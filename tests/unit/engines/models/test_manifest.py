"""The digest of a folder tells every change of its files, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engines.models.flavours import digest_of


def make(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "b.json").write_text("b")
    (folder / "sub" / "a.bin").write_text("a")
    return folder


def test_it_is_the_digest_of_what_sha256sum_prints(tmp_path: Path) -> None:
    lines = "".join(
        f"{hashlib.sha256(content.encode()).hexdigest()}  {path}\n"
        for path, content in (("b.json", "b"), ("sub/a.bin", "a"))
    )
    assert digest_of(make(tmp_path / "x")) == hashlib.sha256(lines.encode()).hexdigest()


def test_a_copy_has_the_same_digest(tmp_path: Path) -> None:
    assert digest_of(make(tmp_path / "x")) == digest_of(make(tmp_path / "y"))


def test_a_change_a_move_and_a_new_file_each_give_another(tmp_path: Path) -> None:
    folder = make(tmp_path / "x")
    digests = {digest_of(folder)}
    (folder / "b.json").write_text("c")
    digests.add(digest_of(folder))
    (folder / "b.json").rename(folder / "c.json")
    digests.add(digest_of(folder))
    (folder / "new").touch()
    digests.add(digest_of(folder))
    assert len(digests) == 4
