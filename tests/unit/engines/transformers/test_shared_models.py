"""One vision-language model asked by several tasks: it is in memory once, and until the last of them lets go."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engines.config.settings import EngineSettings
from engines.inference import InferenceManager
from engines.models.resolved_model import ResolvedModel
from engines.transformers.device import choose_device
from engines.transformers.engine import TransformersEngine
from engines.transformers.shared_models import SharedModels
from engines.transformers.vlm import VisionLanguageRunner
from handlers.decoding.document import read_document
from handlers.errors import ModelLoadFailed
from handlers.settings import MediaSettings
from tests.device import on_this_machine
from tests.unit.engines.parts import KnownModels
from tests.unit.engines.tiny_models import save_llama
from tests.unit.engines.tiny_readers import save_page_reader
from tests.unit.engines.tiny_vlms import save_llava

TASKS = ("vlm", "ocr", "video-analysis", "document-analysis")
PICTURE = Image.new("RGB", (40, 24), (200, 120, 40))
SHORT = {"max_new_tokens": 4}


def conversation(text: str) -> dict[str, Any]:
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return {"images": [PICTURE], "messages": [{"role": "user", "content": content}]}


INPUTS: dict[str, dict[str, Any]] = {
    "vlm": conversation("a b"),
    "ocr": {"image": PICTURE, "prompt": "a b"},
    "video-analysis": {
        "frames": np.zeros((2, 24, 24, 3), dtype=np.uint8),
        "frame_times_s": [0.0, 1.0],
        "duration_s": 2.0,
        "prompt": "a b",
    },
    "document-analysis": {"pages": read_document(PICTURE, field="data.document", limits=MediaSettings())},
}


@pytest.fixture
def engine() -> TransformersEngine:
    return TransformersEngine(on_this_machine())


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


def load(engine: TransformersEngine, task: str, folder: Path) -> Any:
    return engine.load_model("llava", task=task, path=folder)


def test_all_tasks_of_one_model_have_the_same_weights_and_count_them_once(
    engine: TransformersEngine, llava: Path
) -> None:
    runners = [load(engine, task, llava) for task in TASKS]
    assert len({engine.shared_memory(runner) for runner in runners}) == 1
    assert len({engine.model_bytes(runner) for runner in runners}) == 1
    expected = engine.expected_size("llava", task="vlm", path=llava)
    assert expected is not None
    assert (expected[0], torch.device(expected[1]).type) == (0, runners[0].model.device.type)


def test_tasks_that_ask_at_once_answer_as_if_each_had_the_model_for_itself(
    engine: TransformersEngine, llava: Path
) -> None:
    alone = {}
    for task in TASKS:
        own = TransformersEngine(on_this_machine())
        alone[task] = own.infer(load(own, task, llava), INPUTS[task], SHORT)
    runners = {task: load(engine, task, llava) for task in TASKS}
    with ThreadPoolExecutor(4) as threads:
        asked = {task: threads.submit(engine.infer, runners[task], INPUTS[task], SHORT) for task in TASKS}
        assert {task: answer.result(60) for task, answer in asked.items()} == alone


def test_the_model_leaves_the_memory_with_the_last_task_that_asks_it(engine: TransformersEngine, llava: Path) -> None:
    runners = {task: load(engine, task, llava) for task in TASKS}
    model = weakref.ref(runners["vlm"].model)
    for index, task in enumerate(TASKS):
        assert engine.infer(runners[task], INPUTS[task], SHORT)
        assert model() is not None, f"{index} tasks let go, and it is gone"
        assert engine.unload_model(runners.pop(task))
    gc.collect()
    assert model() is None


def test_tasks_that_ask_at_once_cause_one_load(
    engine: TransformersEngine, llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Any] = []
    really = VisionLanguageRunner.load

    def counted(folder: Any, shared: SharedModels) -> VisionLanguageRunner:
        loads.append(folder)
        return really(folder, shared)

    monkeypatch.setattr(VisionLanguageRunner, "load", counted)
    barrier = threading.Barrier(len(TASKS))

    def ask(task: str) -> Any:
        barrier.wait(30)
        return load(engine, task, llava)

    with ThreadPoolExecutor(len(TASKS)) as threads:
        runners = list(threads.map(ask, TASKS))
    assert len(loads) == 1
    assert len({engine.shared_memory(runner) for runner in runners}) == 1


def test_a_model_that_took_the_place_of_another_in_its_folder_is_not_taken_for_it(
    engine: TransformersEngine, llava: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(llava, tmp_path / "model"))
    before = load(engine, "vlm", folder)
    folder.rename(tmp_path / "replaced")
    shutil.copytree(llava, folder)
    after = load(engine, "ocr", folder)
    assert engine.shared_memory(before) != engine.shared_memory(after)


def test_a_task_that_needs_another_class_of_the_model_shares_nothing_and_leaves_nothing(
    engine: TransformersEngine, tmp_path: Path
) -> None:
    folder = save_llama(tmp_path)
    with pytest.raises(ModelLoadFailed):
        load(engine, "vlm", folder)
    assert not engine._shared.holds(folder)
    text, again = load(engine, "text-generation", folder), load(engine, "text-generation", folder)
    assert engine.shared_memory(text) != engine.shared_memory(again)


def test_what_did_not_load_is_tried_again_by_the_next_who_asks(tmp_path: Path) -> None:
    vlms, loaded = SharedModels(), object.__new__(VisionLanguageRunner)

    def broken() -> VisionLanguageRunner:
        raise ModelLoadFailed("no weights")

    with pytest.raises(ModelLoadFailed):
        vlms.take(tmp_path, broken)
    assert not vlms.holds(tmp_path)
    runner, _ = vlms.take(tmp_path, lambda: loaded)
    assert runner is loaded


@pytest.fixture(scope="module")
def page_reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    save_page_reader(folder)
    return folder


def test_tasks_that_read_pages_with_one_model_have_it_in_memory_once(
    engine: TransformersEngine, page_reader: Path
) -> None:
    reading = load(engine, "ocr", page_reader)
    assert not engine.is_shared(reading)
    assert engine.expected_size("pages", task="document-analysis", path=page_reader) == (
        0,
        str(choose_device(engine.config)),
    )
    analysing = load(engine, "document-analysis", page_reader)
    assert engine.shared_memory(reading) == engine.shared_memory(analysing)
    assert engine.is_shared(reading)
    engine.unload_model(reading)
    assert not engine.is_shared(analysing)
    weights = weakref.ref(analysing.model)
    assert engine.infer(analysing, INPUTS["document-analysis"], {})["pages"]
    engine.unload_model(analysing)
    del reading, analysing
    gc.collect()
    assert weights() is None


def test_two_tasks_of_one_page_reader_are_one_load_and_one_row(page_reader: Path, tmp_path: Path) -> None:
    told: list[str] = []
    model = ResolvedModel("pages", "1", "s3://bucket/pages", {"engine": "transformers"})
    models = KnownModels(tmp_path, model)
    models.folder_of = lambda model: page_reader  # type: ignore[method-assign]
    manager = InferenceManager.from_settings(
        EngineSettings(transformers=on_this_machine()),
        models=models,
        on_model=lambda kind, *_: told.append(kind),
    )
    data: dict[str, dict[str, Any]] = {"ocr": {"image": PICTURE}, "document-analysis": {"document": PICTURE}}
    for _ in range(2):
        for task, its in data.items():
            result = manager.infer(task=task, engine="transformers", model_name="pages", data=its)
            assert result["success"], result["error"]
    assert told == ["model_loaded"]
    (row,) = manager.get_cached_models()
    assert row["tasks"] == ["ocr", "document-analysis"]
    assert (manager.cache.misses, manager.cache.hits, row["hits"]) == (1, 3, 2)
    assert manager.clear_cache() == {"cleared": 1, "in_use": [], "kept": []}
    assert told == ["model_loaded", "model_evicted"]
    manager.close()
