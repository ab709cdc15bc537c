"""The registry of handlers: which class serves which task, made when."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from handlers.base import BaseModelHandler
from handlers.errors import InternalError, InvalidInput, UnknownTask
from handlers.registry import HandlerRegistry
from handlers.settings import MediaSettings


class Echo(BaseModelHandler):
    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return data

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return result


class Limited(Echo):
    task = "limited"

    def __init__(self, limits: MediaSettings | None = None) -> None:
        self.limits = limits


def install(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    found = [EntryPoint(name, value, "inferstream.handlers") for name, value in points.items()]
    monkeypatch.setattr("handlers.registry.entry_points", lambda group: found)


def test_the_built_in_tasks_have_handlers() -> None:
    registry = HandlerRegistry()
    assert {"asr", "text-generation"} <= set(registry.tasks())
    for task in ("asr", "text-generation"):
        assert registry.get(task).task == task


def test_a_task_has_one_handler() -> None:
    registry = HandlerRegistry()
    assert registry.get("text-generation") is registry.get("text-generation")


def test_an_unknown_task_names_the_nearest_and_the_known_ones() -> None:
    with pytest.raises(UnknownTask) as caught:
        HandlerRegistry().get("text-generatoin")
    assert "'text-generatoin' is unknown; did you mean text-generation?" in caught.value.message
    assert "asr" in caught.value.message


def test_made_up_names_leave_nothing_behind() -> None:
    registry = HandlerRegistry()
    for number in range(100):
        with pytest.raises(UnknownTask):
            registry.get(f"made-up-{number}")
    assert len(registry._making) == 1


def test_a_registered_handler_serves_its_task_and_learns_its_name() -> None:
    class Unnamed(Echo):
        pass

    registry = HandlerRegistry()
    registry.register_handler_manually("echo", "my echo", Unnamed)
    assert type(registry.get("echo")) is Unnamed
    assert registry.get("echo").task == "echo"
    assert "echo" in registry.tasks()


def test_a_class_that_serves_two_tasks_reports_each_by_its_name() -> None:
    class Unnamed(Echo):
        pass

    registry = HandlerRegistry()
    registry.register_handler_manually("echo", "echo", Unnamed)
    registry.register_handler_manually("mirror", "mirror", Unnamed)
    assert [registry.get(task).task for task in ("echo", "mirror")] == ["echo", "mirror"]
    with pytest.raises(InvalidInput, match="for task mirror"):
        registry.get("mirror").validate_input({}, ["text"])


def test_a_registered_handler_replaces_a_built_in_one_even_after_its_first_use() -> None:
    registry = HandlerRegistry()
    registry.get("asr")
    registry.register_handler_manually("asr", "mine", Limited)
    assert type(registry.get("asr")) is Limited


@pytest.mark.logs_errors("handler_not_made")
def test_a_handler_that_takes_no_name_is_an_error_of_its_task_alone() -> None:
    class Stubborn(Echo):
        @property
        def task(self) -> str:  # type: ignore[override]
            return ""

    registry = HandlerRegistry()
    registry.register_handler_manually("stubborn", "stubborn", Stubborn)
    with pytest.raises(InternalError, match="AttributeError"):
        registry.get("stubborn")


def test_a_handler_registered_while_another_is_made_is_the_one_that_serves() -> None:
    registry, making, go_on = HandlerRegistry(), threading.Event(), threading.Event()

    class Slow(Echo):
        def __init__(self) -> None:
            making.set()
            assert go_on.wait(20)

    registry.register_handler_manually("echo", "slow", Slow)
    with ThreadPoolExecutor(1) as threads:
        before = threads.submit(registry.get, "echo")
        assert making.wait(20)
        registry.register_handler_manually("echo", "limited", Limited)
        go_on.set()
        assert type(before.result(20)) is Limited
    assert type(registry.get("echo")) is Limited


def test_handlers_that_take_limits_get_the_configured_ones() -> None:
    registry = HandlerRegistry()
    registry.register_handler_manually("limited", "limited", Limited)
    first = registry.get("limited")
    assert isinstance(first, Limited)
    assert first.limits is None
    media = MediaSettings(max_audio_s=5)
    registry.configure(media)
    later = registry.get("limited")
    assert isinstance(later, Limited)
    assert later.limits is media


@pytest.mark.parametrize("task", ["", "two words", "a/b", "x" * 101, "-a"])
def test_a_task_whose_name_cannot_be_part_of_a_topic_is_refused(task: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        HandlerRegistry().register_handler_manually(task, "echo", Echo)


@pytest.mark.parametrize("wrong", [dict, "handlers.recording:AsrHandler", None])
def test_what_is_no_handler_class_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"subclass of handlers\.BaseModelHandler"):
        HandlerRegistry().register_handler_manually("echo", "echo", wrong)


def test_installed_packages_bring_handlers_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, limited=f"{__name__}:Limited")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Limited.__module__])
    registry = HandlerRegistry()
    assert "limited" in registry.tasks()
    assert type(registry.get("limited")) is Limited


@pytest.mark.logs_errors("entry_point_broken")
def test_an_entry_point_that_does_not_import_is_an_error_of_its_task_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, broken="no_such_module_at_all:Handler", wrong="json:dumps")
    registry = HandlerRegistry()
    with pytest.raises(UnknownTask, match=r"broken cannot be served here: .*no_such_module_at_all"):
        registry.get("broken")
    with pytest.raises(UnknownTask, match="not a subclass of BaseModelHandler"):
        registry.get("wrong")
    assert registry.get("text-generation").task == "text-generation"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def broken(:", "SyntaxError"),
        ("import json; json.nothing", "AttributeError: module 'json' has no attribute 'nothing'"),
        ("1 / 0", "ZeroDivisionError"),
        ("", "AttributeError: .*Handler"),
    ],
)
@pytest.mark.logs_errors("entry_point_broken")
def test_a_broken_package_is_told_by_entry_point_and_name_and_other_tasks_go_on(
    source: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_plugin.py").write_text(source)
    about = tmp_path / "broken_plugin-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text("[inferstream.handlers]\nbroken = broken_plugin:Handler\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = HandlerRegistry()
    with pytest.raises(
        UnknownTask,
        match=rf"(?s)broken cannot be served here: entry point inferstream\.handlers broken = broken_plugin:Handler "
        rf"of package broken-plugin 1\.2 does not load: .*{says}.*; fix or remove that package",
    ):
        registry.get("broken")
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)
    assert registry.get("text-generation").task == "text-generation"


def test_many_threads_get_the_same_handler() -> None:
    made = []

    class Counted(Echo):
        def __init__(self) -> None:
            made.append(self)

    registry = HandlerRegistry()
    registry.register_handler_manually("counted", "counted", Counted)
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait(timeout=10)
        registry.get("counted")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(made) == 1


def test_a_handler_that_hangs_while_it_is_made_holds_up_no_other_task() -> None:
    entered, gate = threading.Event(), threading.Event()

    class Hangs(Echo):
        def __init__(self) -> None:
            entered.set()
            gate.wait()

    registry = HandlerRegistry()
    registry.register_handler_manually("hangs", "hangs", Hangs)
    registry.register_handler_manually("echo", "echo", Echo)
    making = threading.Thread(target=registry.get, args=("hangs",), daemon=True)
    making.start()
    assert entered.wait(30)
    assert isinstance(registry.get("echo"), Echo)
    assert {"hangs", "echo"} <= set(registry.tasks())
    gate.set()
    making.join(30)
    assert isinstance(registry.get("hangs"), Hangs)


@pytest.mark.processes
def test_importing_the_registry_brings_in_no_heavy_library() -> None:
    code = (
        "import sys; from handlers import model_registry, BaseModelHandler; model_registry.tasks(); "
        "print([name for name in ('torch', 'transformers', 'numpy', 'soundfile') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_the_package_lacks_is_an_attribute_error() -> None:
    import handlers

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        handlers.nothing  # noqa: B018
