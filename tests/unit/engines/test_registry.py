"""Engines by name: made once, by whoever asks first, from their own settings."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any

import pytest

from engines import registry as registry_module
from engines.base import BaseEngine
from engines.registry import EngineRegistry
from handlers.errors import EngineUnavailable, UnknownEngine
from tests.unit.engines.parts import ShoutEngine

DEADLINE_S = 20.0


def test_an_engine_is_made_once_however_many_threads_ask() -> None:
    registry, made, barrier = EngineRegistry(), [], threading.Barrier(8)

    def make(config: Any) -> BaseEngine:
        made.append(config)
        return ShoutEngine(config)

    def ask(_: int) -> BaseEngine:
        barrier.wait(DEADLINE_S)
        return registry.get("shouter")

    registry.register("shouter", make)
    with ThreadPoolExecutor(8) as threads:
        engines = list(threads.map(ask, range(8)))
    assert len(made) == 1
    assert len({id(engine) for engine in engines}) == 1


def test_an_engine_that_is_slow_to_make_holds_up_no_other() -> None:
    registry, making, go_on = EngineRegistry(), threading.Event(), threading.Event()

    def slowly(config: Any) -> BaseEngine:
        making.set()
        assert go_on.wait(DEADLINE_S)
        return ShoutEngine(config)

    registry.register("slow", slowly)
    registry.register("quick", ShoutEngine)
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(registry.get, "slow")
        assert making.wait(DEADLINE_S)
        assert registry.get("quick").name == "quick"
        go_on.set()
        assert slow.result(DEADLINE_S).name == "slow"


def test_an_engine_gets_the_section_of_its_name() -> None:
    registry = EngineRegistry(SimpleNamespace(shouter={"volume": 11}))
    registry.register("shouter", ShoutEngine)
    registry.register("other", ShoutEngine)
    assert registry.get("shouter").config == {"volume": 11}
    assert registry.get("other").config is None


def test_an_unknown_engine_is_named_with_the_known_ones() -> None:
    registry = EngineRegistry()
    registry.register("shouter", ShoutEngine)
    with pytest.raises(
        UnknownEngine, match=r"'steam' is not known; this process has .*shouter.*transformers"
    ):
        registry.get("steam")


@pytest.mark.parametrize("name", ["", "a/b"])
def test_a_name_that_would_break_keys_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name for an engine"):
        EngineRegistry().register(name, ShoutEngine)


def test_an_engine_that_cannot_be_made_is_unavailable_and_tried_again() -> None:
    registry, broken = EngineRegistry(), True

    def make(config: Any) -> BaseEngine:
        if broken:
            raise ImportError("No module named 'warp'")
        return ShoutEngine(config)

    registry.register("warp", make)
    with pytest.raises(EngineUnavailable, match=r"warp.*install"):
        registry.get("warp")
    broken = False
    assert registry.get("warp").name == "warp"


def test_an_installed_package_brings_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("shouter", "tests.unit.engines.parts:ShoutEngine", registry_module.ENTRY_POINTS)
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [point])
    registry = EngineRegistry()
    assert "shouter" in registry.names()
    assert type(registry.get("shouter")).__name__ == "ShoutEngine"


def test_an_engine_registered_by_hand_takes_the_place_of_a_built_in_one() -> None:
    registry = EngineRegistry()
    registry.register("transformers", ShoutEngine)
    assert isinstance(registry.get("transformers"), ShoutEngine)


def test_unload_lets_engines_go() -> None:
    registry = EngineRegistry()
    registry.register("shouter", ShoutEngine)
    first = registry.get("shouter")
    registry.unload()
    assert registry.made() == {}
    assert registry.get("shouter") is not first
