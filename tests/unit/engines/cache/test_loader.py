"""One model on its way into memory: its files, the room for it, its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines.cache.loader import ModelLoading
from engines.models.resolved_model import ResolvedModel
from handlers.errors import ModelLoadFailed
from tests.unit.engines.parts import KnownModels, ShoutEngine

MODEL = ResolvedModel("m", "1", "s3://bucket/m")


class Unmeasurable(ShoutEngine):
    """Cannot tell how much memory a model takes, such as one on a device that was lost."""

    def model_bytes(self, model: Any) -> int:
        raise RuntimeError("device lost")


class Foreseeing(ShoutEngine):
    """Knows from the files how much a model takes."""

    def __init__(self, size: int = 12) -> None:
        super().__init__()
        self.size = size
        self.asked: list[dict[str, Any]] = []

    def expected_size(self, name: str, **kw: Any) -> tuple[int, str] | None:
        self.asked.append({"name": name, **kw})
        return self.size, "cuda:1"


@pytest.fixture
def models(tmp_path: Path) -> KnownModels:
    return KnownModels(tmp_path, MODEL)


def test_room_is_made_for_what_the_engine_expects_before_it_loads(models: KnownModels) -> None:
    engine = Foreseeing()
    rooms: list[tuple[int, str, int]] = []
    loading = ModelLoading("shouter", "shout", MODEL, engine, models.files)
    loaded = loading.load(lambda size, device: rooms.append((size, device, len(engine.loaded))))
    assert rooms == [(12, "cuda:1", 0)]
    assert engine.asked == engine.loaded
    assert engine.asked[0]["path"] == Path("/models/m/1")
    assert (loaded.bytes, loaded.device) == (10, "cpu"), "what it proved to be"


def test_room_of_a_size_that_nobody_knows_is_made_once_the_files_are_here(models: KnownModels) -> None:
    engine = ShoutEngine()
    rooms: list[tuple[int, str, int, int]] = []

    def make_room(size: int, device: str) -> None:
        rooms.append((size, device, models.files_in_use[MODEL.key], len(engine.loaded)))

    ModelLoading("shouter", "shout", MODEL, engine, models.files).load(make_room)
    assert rooms == [(0, "", 1, 0)]


def test_no_room_is_made_for_a_model_that_takes_no_memory_here(models: KnownModels) -> None:
    engine = Foreseeing(size=0)
    loading = ModelLoading("shouter", "shout", MODEL, engine, models.files)
    loading.load(lambda size, device: pytest.fail("room was made"))
    assert engine.loaded


def test_a_model_without_room_is_not_loaded_and_lets_go_of_its_files(models: KnownModels) -> None:
    engine, refusal = Foreseeing(), ModelLoadFailed("too large")

    def refuse(size: int, device: str) -> None:
        raise refusal

    with pytest.raises(ModelLoadFailed) as caught:
        ModelLoading("shouter", "shout", MODEL, engine, models.files).load(refuse)
    assert caught.value is refusal
    assert not engine.loaded
    assert models.files_in_use[MODEL.key] == 0


@pytest.mark.logs_errors("model_not_measured")
def test_a_model_that_cannot_be_measured_leaves_the_memory_all_the_same(models: KnownModels) -> None:
    engine = Unmeasurable()
    told: list[tuple[str, int]] = []
    loading = ModelLoading(
        "shouter",
        "shout",
        MODEL,
        engine,
        models.files,
        lambda kind, model, details: told.append((kind, details["bytes"])),
    )
    models.files.acquire(MODEL)
    loading.unload({"name": "m"})
    assert engine.unloaded == ["m"]
    assert models.files_in_use[MODEL.key] == 0
    assert told == [("model_evicted", 0)]


@pytest.mark.logs_errors("load_failed")
def test_a_model_that_cannot_be_measured_once_it_is_loaded_is_unloaded_again(models: KnownModels) -> None:
    engine = Unmeasurable()
    with pytest.raises(ModelLoadFailed, match="device lost"):
        ModelLoading("shouter", "shout", MODEL, engine, models.files).load(lambda size, device: None)
    assert engine.unloaded == ["m"]
    assert models.files_in_use[MODEL.key] == 0
