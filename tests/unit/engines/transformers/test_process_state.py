"""Models that load at the same time, and runs beside a load: what transformers changes for all threads hurts none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, PreTrainedModel, initialization, modeling_utils

from engines.transformers import loading
from engines.transformers.engine import TransformersEngine
from engines.transformers.process_state import DtypeGate, guard_transformers
from handlers.errors import EngineUnavailable, ModelLoadFailed
from tests.device import on_this_machine
from tests.models.audio import WEIGHTS as AUDIO_WEIGHTS
from tests.models.video import WEIGHTS as VIDEO_WEIGHTS
from tests.models.vlm import WEIGHTS as VLM_WEIGHTS
from tests.unit.engines.tiny_models import save_llama, save_t5

LONGEST_S = 60.0
SOON_S = 0.1
"""How long a load in the window looks out for another; where they take turns, none comes."""

SECOND = np.sin(np.arange(16_000, dtype=np.float32) / 20) / 2
FRAMES = np.zeros((16, 64, 64, 3), np.uint8)
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "tied": ("text-generation", {"inputs": "a b c"}),
    "t5": ("text-generation", {"inputs": "a b c"}),
    "sound": ("audio-classification", {"audio": SECOND, "sampling_rate": 16_000, "duration_s": 1.0}),
    "video": (
        "video-analysis",
        {"frames": FRAMES, "frame_times_s": [n / 8 for n in range(16)], "duration_s": 2.0},
    ),
    "picture": (
        "vlm",
        {
            "images": [Image.new("RGB", (64, 64), "red")],
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image"}, {"type": "text", "text": "What color is the shape?"}],
                }
            ],
        },
    ),
}
"""Model -> the task, and inputs as its handler gives them."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("models")
    return {
        "tied": save_llama(made / "tied", tied=True),
        "t5": save_t5(made / "t5"),
        "sound": AUDIO_WEIGHTS,
        "video": VIDEO_WEIGHTS,
        "picture": VLM_WEIGHTS,
    }


@pytest.fixture
def engine() -> TransformersEngine:
    return TransformersEngine(on_this_machine())


@pytest.fixture(autouse=True)
def state_of_the_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back what a failing test leaves behind; a passing one must leave nothing."""
    guard_transformers()
    before = _state()
    for holder, name, value in before:
        monkeypatch.setattr(holder, name, value)
    yield
    after = _state()
    torch.set_default_dtype(torch.float32)
    assert [(name, value) for _, name, value in after] == [(name, value) for _, name, value in before]


def _state() -> list[tuple[Any, str, Any]]:
    inits = [(torch.nn.init, name, getattr(torch.nn.init, name)) for name in initialization.TORCH_INIT_FUNCTIONS]
    return [
        (PreTrainedModel, "tie_weights", PreTrainedModel.tie_weights),
        (PreTrainedModel, "init_weights", PreTrainedModel.init_weights),
        (torch, "linspace", torch.linspace),
        (torch, "get_default_dtype", torch.get_default_dtype),
        *inits,
    ]


class Windows:
    """Keeps loads in the window where transformers has replaced a function, until another is there too: the first
    then leaves first, and the last puts back what the first had put there."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self.most_inside = 0

    def around(self, window: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def slow(*args: Any, **kwargs: Any) -> Iterator[None]:
            with window(*args, **kwargs):
                with self._changed:
                    self._inside += 1
                    self.most_inside = max(self.most_inside, self._inside)
                    number = self._inside
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: number > 1 or self._inside > 1, SOON_S)
                    self._changed.wait_for(lambda: number == 1 or self._inside < number, SOON_S)
                yield
                with self._changed:
                    self._inside -= 1
                    self._changed.notify_all()

        return slow


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Windows:
    windows = Windows()
    monkeypatch.setattr(initialization, "no_tie_weights", windows.around(initialization.no_tie_weights))
    return windows


def answer(engine: TransformersEngine, folders: dict[str, Path], name: str) -> dict[str, Any]:
    task, inputs = ASKED[name]
    model = engine.load_model(name, task=task, path=folders[name])
    try:
        return engine.infer(model, inputs, {"max_new_tokens": 4} if task in ("text-generation", "vlm") else {})
    finally:
        engine.unload_model(model)


def test_models_that_load_at_once_answer_as_each_does_alone(
    engine: TransformersEngine, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {name: answer(engine, folders, name) for name in ASKED}
    windows = Windows()
    monkeypatch.setattr(initialization, "no_tie_weights", windows.around(initialization.no_tie_weights))
    with ThreadPoolExecutor(len(ASKED)) as threads:
        asked = {name: threads.submit(answer, engine, folders, name) for name in ASKED}
        assert {name: future.result(LONGEST_S) for name, future in asked.items()} == alone
    assert windows.most_inside == 1


def test_others_that_load_by_transformers_take_their_turn(
    engine: TransformersEngine, folders: dict[str, Path], windows: Windows
) -> None:
    def load_as_others_do() -> bool:
        model: Any = AutoModelForCausalLM.from_pretrained(folders["tied"])
        return model.lm_head.weight is model.model.embed_tokens.weight

    def make_as_others_do() -> bool:
        config = AutoModelForCausalLM.from_pretrained(folders["tied"]).config
        model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        return model.lm_head.weight is model.model.embed_tokens.weight

    with ThreadPoolExecutor(3) as threads:
        own = threads.submit(answer, engine, folders, "tied")
        others = [threads.submit(load_as_others_do), threads.submit(make_as_others_do)]
        assert [other.result(LONGEST_S) for other in others] == [True, True]
        assert own.result(LONGEST_S)["finish_reason"]
    assert windows.most_inside == 1


def test_a_load_that_reports_missing_weights_is_tried_once_more(
    engine: TransformersEngine, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's own code, which takes no turns, is in the way of the first try."""
    tries = 0

    def load(self: loading.ModelFolder, auto_class: Any) -> tuple[Any, list[str]]:
        nonlocal tries
        tries += 1
        if tries > 1:
            return weights(self, auto_class)
        with initialization.no_tie_weights():
            return weights(self, auto_class)

    weights = loading.ModelFolder._weights
    monkeypatch.setattr(loading.ModelFolder, "_weights", load)
    assert answer(engine, folders, "tied")["finish_reason"]
    assert tries == 2


def test_a_model_that_lacks_weights_is_blamed_after_a_second_try(
    engine: TransformersEngine, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Any] = []

    def load(self: loading.ModelFolder, auto_class: Any) -> tuple[Any, list[str]]:
        tries.append(auto_class)
        return weights(self, auto_class)[0], ["lm_head.weight"]

    weights = loading.ModelFolder._weights
    monkeypatch.setattr(loading.ModelFolder, "_weights", load)
    with pytest.raises(ModelLoadFailed, match=r"lacks weights: lm_head\.weight; register a complete model"):
        answer(engine, folders, "tied")
    assert len(tries) == 2


@pytest.mark.parametrize("name", ASKED)
def test_a_run_never_sees_the_number_format_of_a_load_beside_it(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A load in bf16 stands still just where the default is bf16, while another model is asked."""
    engine = TransformersEngine(on_this_machine(torch_dtype="bf16"))
    task, inputs = ASKED[name]
    runner = engine.load_model(name, task=task, path=folders[name])
    seen: list[torch.dtype] = []
    for module in (runner.model, *runner.model.modules()):
        module.register_forward_pre_hook(lambda *_: seen.append(torch.get_default_dtype()))
    is_changed, may_go_on = threading.Event(), threading.Event()

    @contextmanager
    def standing_still() -> Iterator[None]:
        with without_ties():
            assert torch.get_default_dtype() == torch.bfloat16
            is_changed.set()
            may_go_on.wait(LONGEST_S)
            yield

    without_ties = initialization.no_tie_weights
    monkeypatch.setattr(initialization, "no_tie_weights", standing_still)
    options = {"max_new_tokens": 4} if task in ("text-generation", "vlm") else {}
    with ThreadPoolExecutor(2) as threads:
        load = threads.submit(engine.load_model, "tied", task="text-generation", path=folders["tied"])
        try:
            assert is_changed.wait(LONGEST_S)
            run = threads.submit(engine.infer, runner, inputs, options)
            with pytest.raises(TimeoutError):
                run.result(SOON_S)
        finally:
            may_go_on.set()
        assert run.result(LONGEST_S)
        engine.unload_model(load.result(LONGEST_S))
    engine.unload_model(runner)
    assert set(seen) == {torch.float32}


def test_a_load_in_the_default_format_holds_up_no_run(
    engine: TransformersEngine, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = engine.load_model("sound", task="audio-classification", path=folders["sound"])
    is_loading, may_go_on = threading.Event(), threading.Event()

    @contextmanager
    def standing_still() -> Iterator[None]:
        with without_ties():
            is_loading.set()
            may_go_on.wait(LONGEST_S)
            yield

    without_ties = initialization.no_tie_weights
    monkeypatch.setattr(initialization, "no_tie_weights", standing_still)
    with ThreadPoolExecutor(2) as threads:
        load = threads.submit(engine.load_model, "tied", task="text-generation", path=folders["tied"])
        try:
            assert is_loading.wait(LONGEST_S)
            assert threads.submit(engine.infer, runner, ASKED["sound"][1], {}).result(LONGEST_S)["labels"]
        finally:
            may_go_on.set()
        engine.unload_model(load.result(LONGEST_S))
    engine.unload_model(runner)


def test_a_run_that_does_not_end_fails_the_load_and_lets_the_others_go_on() -> None:
    gate = DtypeGate()
    with ThreadPoolExecutor(1) as threads, gate.running():
        with pytest.raises(EngineUnavailable, match="one has run for"):
            threads.submit(gate.changing(0.01).__enter__).result(LONGEST_S)
        with gate.running():
            pass


def test_the_guard_is_set_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = vars(PreTrainedModel)["from_pretrained"], modeling_utils.local_torch_dtype
    guard_transformers()
    assert (vars(PreTrainedModel)["from_pretrained"], modeling_utils.local_torch_dtype) == before
