"""Engines by name: made once, by whoever asks first, from their own settings."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr

from engines import registry as registry_module
from engines.base import BaseEngine
from engines.config.settings import EngineSettings, OllamaSettings
from engines.configuration import ConfigurationError
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


class Volume(BaseModel):
    level: float = Field(default=1.0, gt=0, le=11, description="How loud.")
    words: tuple[str, ...] = ()
    api_token: SecretStr | None = None


class SetEngine(ShoutEngine):
    settings_class = Volume


class NeedyEngine(ShoutEngine):
    class Needs(BaseModel):
        address: str = Field(pattern="^http", description="Where its server is.")

    settings_class = Needs


def registry_with(**engines: dict[str, Any]) -> EngineRegistry:
    """Return a registry of `shouter`, `needy` and `plain`, with these settings for engines of one's own."""
    registry = EngineRegistry(EngineSettings.model_validate({"engines": engines}))
    registry.register("shouter", SetEngine)
    registry.register("needy", NeedyEngine)
    registry.register("plain", ShoutEngine)
    return registry


def problems_of(**engines: dict[str, Any]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        registry_with(**engines).check_settings()
    return str(caught.value)


def test_an_engine_gets_the_settings_it_declares() -> None:
    registry = registry_with(shouter={"level": "11", "words": "a, b"})
    registry.check_settings()
    assert registry.get("shouter").config == Volume(level=11, words=("a", "b"))
    assert registry.get("plain").config is None
    assert registry_with().get("shouter").config == Volume()


def test_engines_of_ours_get_their_own_sections() -> None:
    registry = EngineRegistry(EngineSettings(ollama=OllamaSettings(max_concurrent=7)))
    registry.register("ollama", ShoutEngine)
    assert registry.get("ollama").config.max_concurrent == 7


def test_wrong_settings_of_engines_are_told_all_at_once_with_what_is_allowed() -> None:
    lines = problems_of(
        shouter={"level": 12, "lewel": 1, "api_token": 5, "api_tokem": "hunter2"},
        shooter={"level": 1},
        plain={"level": 1},
        needy={},
        ollama={"timeout_s": 3},
    ).splitlines()
    assert len(lines) == 7
    text = "\n".join(lines)
    assert "engines.shouter.level=12 (Python): allowed: a number above 0, at most 11. How loud." in text
    assert "engines.shouter.lewel=1 (Python): no such setting; did you mean engines.shouter.level?" in text
    assert "engines.shouter.api_token=******** (Python): allowed: text, or null; put it in quotes" in text
    assert "engines.shouter.api_tokem=******** (Python): no such setting" in text
    assert "engines.shooter: no such engine; did you mean shouter?" in text
    assert "engines.plain.level=1 (Python): no such setting; engine plain declares no settings_class" in text
    assert "engines.ollama: engine ollama has a separate section; write ollama" in text


def test_a_setting_without_default_must_be_given() -> None:
    registry = registry_with()
    registry.check_settings()  # nobody has said that this engine is to be used
    with pytest.raises(
        EngineUnavailable, match=r"engines\.needy\.address is not set and has no default; allowed: text"
    ):
        registry.get("needy")
    assert registry_with(needy={"address": "http://host"}).get("needy").config.address == "http://host"


def test_an_engine_that_anything_is_set_for_is_meant_to_be_used() -> None:
    assert registry_with(shouter={"level": 2}).configured() == ["shouter"]


@pytest.mark.parametrize("given", [int, "engine", None])
def test_something_else_than_an_engine_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"must be a subclass of engines\.BaseEngine"):
        EngineRegistry().register("mine", given)


def test_the_tasks_of_an_engine_are_told_by_its_class() -> None:
    registry = registry_with()
    assert registry.supported_tasks("shouter") == {"shout"}
    assert registry.supported_tasks("ollama") == {"text-generation", "vlm"}
    assert registry.made() == {}


def test_an_engine_that_says_its_tasks_only_once_it_is_made_is_made_for_that() -> None:
    class Late(ShoutEngine):
        supported_tasks = frozenset()

        def __init__(self, config: Any = None) -> None:
            super().__init__(config)
            self.supported_tasks = frozenset({"late"})

    registry = EngineRegistry()
    registry.register("late", Late)
    registry.register("factory", lambda config: ShoutEngine(config))
    assert registry.supported_tasks("late") == {"late"}
    assert registry.supported_tasks("factory") == {"shout"}


@pytest.mark.logs_errors("entry_point_broken")
def test_a_broken_package_is_told_by_entry_point_and_other_engines_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = EntryPoint("broken", "json:nothing", registry_module.ENTRY_POINTS)
    monkeypatch.setattr("handlers.registry.entry_points", lambda group: [point])
    registry = registry_with(broken={"level": 1})
    registry.check_settings()
    with pytest.raises(
        EngineUnavailable,
        match=r"broken cannot be made here: entry point inferstream\.engines broken = json:nothing of an installed "
        r"package does not load: AttributeError: .*; fix or remove",
    ):
        registry.get("broken")
    assert registry.get("shouter").name == "shouter"


def test_an_unknown_engine_is_named_with_the_known_ones() -> None:
    registry = EngineRegistry()
    registry.register("shouter", ShoutEngine)
    with pytest.raises(UnknownEngine, match=r"'steam' is not known; this process has .*shouter.*transformers"):
        registry.get("steam")


@pytest.mark.parametrize("name", ["", "a/b"])
def test_a_name_that_would_break_keys_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a name for an engine"):
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


@pytest.mark.logs_errors("engine_not_made")
def test_an_engine_that_takes_no_name_is_unavailable() -> None:
    class Stubborn(ShoutEngine):
        @property
        def name(self) -> str:  # type: ignore[override]
            return ""

    registry = EngineRegistry()
    registry.register("stubborn", Stubborn)
    with pytest.raises(EngineUnavailable, match="stubborn cannot be made here: AttributeError"):
        registry.get("stubborn")


def test_an_installed_package_brings_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("shouter", "tests.unit.engines.parts:ShoutEngine", registry_module.ENTRY_POINTS)
    monkeypatch.setattr("handlers.registry.entry_points", lambda group: [point])
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


def test_installed_packages_are_looked_through_once_however_often_engines_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[str] = []

    def look(group: str) -> list[EntryPoint]:
        looked.append(group)
        return []

    monkeypatch.setattr("handlers.registry.entry_points", look)
    registry = EngineRegistry()
    assert [registry.knows(name) for name in ("transformers", "nobody", "nobody")] == [True, False, False]
    registry.names()
    registry.register("mine", ShoutEngine)
    assert registry.knows("mine")
    assert looked == [registry_module.ENTRY_POINTS]
