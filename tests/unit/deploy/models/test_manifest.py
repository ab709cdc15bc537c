"""A manifest tells a complete folder from a damaged one."""

from __future__ import annotations

from pathlib import Path

from deploy.models.preparation import MANIFEST, problems, write_manifest


def _folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "deep" / "weights").write_bytes(b"\x00" * 100)
    write_manifest(tmp_path)
    return tmp_path


def test_an_untouched_folder_has_no_problems(tmp_path: Path) -> None:
    assert problems(_folder(tmp_path), hashes=True) == []


def test_a_missing_or_cut_file_is_found_by_size_alone(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "config.json").unlink()
    (folder / "deep" / "weights").write_bytes(b"\x00" * 99)
    assert problems(folder, hashes=False) == [
        "config.json is missing",
        "deep/weights has 99 bytes instead of 100",
    ]


def test_changed_bytes_are_found_by_hash(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "deep" / "weights").write_bytes(b"\x01" * 100)
    assert problems(folder, hashes=False) == []
    assert problems(folder, hashes=True) == ["deep/weights has other contents than when it was made"]


def test_a_folder_without_a_readable_manifest_is_not_complete(tmp_path: Path) -> None:
    assert problems(tmp_path, hashes=False) == ["MANIFEST.json is missing"]
    (tmp_path / MANIFEST).write_text("{")
    assert problems(tmp_path, hashes=False) == ["MANIFEST.json is unreadable"]
