from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from handlers.errors import InferenceError, MediaForbidden, MediaNotFound, MediaTooLarge
from handlers.media import Media
from streams.media.fetch import Allowance, Fetch
from streams.media.local import read_local

MAX_BYTES = 1000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "allowed"
    root.mkdir()
    (root / "clip.wav").write_bytes(b"sound")
    (tmp_path / "secret").write_bytes(b"secret")
    return root


def read(path: Path, *roots: Path) -> Media:
    fetch = Fetch(str(path), allowance=Allowance(MAX_BYTES), deadline_s=30, deadline_name="media.deadline_s")
    return read_local(path, roots, fetch)


def test_a_file_under_a_root_is_read(root: Path) -> None:
    media = read(root / "clip.wav", root)
    assert media.content == b"sound"
    assert media.source == str(root / "clip.wav")


def test_a_link_within_a_root_is_followed(root: Path) -> None:
    (root / "link").symlink_to("clip.wav")
    assert read(root / "link", root).content == b"sound"


def test_a_root_may_itself_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    assert read(tmp_path / "alias" / "clip.wav", tmp_path / "alias").content == b"sound"
    assert read(root / "clip.wav", tmp_path / "alias").content == b"sound"


def test_nothing_is_read_where_no_root_is_allowed(root: Path) -> None:
    with pytest.raises(MediaForbidden, match=r"media\.allowed_roots"):
        read(root / "clip.wav")


def test_neither_dots_nor_links_lead_out_of_a_root(root: Path, tmp_path: Path) -> None:
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to(tmp_path)
    sibling = tmp_path / "allowed-not"
    sibling.mkdir()
    (sibling / "a").write_bytes(b"secret")
    for path in (
        root / "out",
        root / "up" / "secret",
        root / ".." / "secret",
        root / "no" / ".." / ".." / "secret",
        sibling / "a",
        Path("/etc/passwd"),
        Path("/proc/self/environ"),
    ):
        with pytest.raises(MediaForbidden):
            read(path, root)


def test_whether_a_file_outside_exists_is_not_told(root: Path, tmp_path: Path) -> None:
    answers = []
    for name in ("secret", "absent"):
        with pytest.raises(MediaForbidden) as refused:
            read(tmp_path / name, root)
        answers.append(refused.value.message.replace(name, "NAME"))
    assert answers[0] == answers[1]


def test_a_missing_file_is_not_found(root: Path) -> None:
    for path in (root / "absent.wav", root / "clip.wav" / "below", root / ("x" * 300)):
        with pytest.raises(MediaNotFound, match="check the path"):
            read(path, root)


def test_a_loop_of_links_is_refused(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(InferenceError) as refused:
        read(root / "a", root)
    assert isinstance(refused.value, MediaForbidden | MediaNotFound)


def test_folders_pipes_and_sockets_are_refused_without_waiting(root: Path) -> None:
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        for name in ("folder", "pipe", "socket"):
            with pytest.raises(MediaForbidden, match="regular file"):
                read(root / name, root)


def test_a_device_is_refused() -> None:
    with pytest.raises(MediaForbidden, match="not a regular file"):
        read(Path("/dev/zero"), Path("/dev"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_the_worker_may_not_read_is_forbidden(root: Path) -> None:
    (root / "clip.wav").chmod(0)
    with pytest.raises(MediaForbidden, match="may read"):
        read(root / "clip.wav", root)


def test_a_large_file_is_refused_by_its_size(root: Path) -> None:
    with (root / "large").open("wb") as large:
        large.truncate(1 << 40)  # a hole: reading it would take for ever
    with pytest.raises(MediaTooLarge, match=rf"1099511627776 bytes.*media\.max_bytes allows {MAX_BYTES}"):
        read(root / "large", root)


def test_a_file_of_exactly_the_limit_is_read(root: Path) -> None:
    (root / "full").write_bytes(b"x" * MAX_BYTES)
    assert len(read(root / "full", root).content) == MAX_BYTES
