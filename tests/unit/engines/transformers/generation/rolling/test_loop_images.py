"""Prompts with images beside running rows: who waits for them, and who pays where they are too large."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engines.transformers.engine import TransformersEngine
from engines.transformers.generation.rolling.loop import RollingLoop
from engines.transformers.vlm import VisionLanguageRunner, VlmRunner
from handlers.errors import OutOfMemory
from tests.device import on_this_machine
from tests.unit.engines.tiny_vlms import make_qwen, save_llava, save_llava_next
from tests.unit.engines.transformers.generation.rolling.parts import PATIENCE_S, Watched, text

SIZES = ((40, 24), (24, 64), (32, 32))


def load(save: Callable[[Path], Path], folder: Path, **settings: Any) -> VisionLanguageRunner:
    engine = TransformersEngine(on_this_machine(**settings))
    runner = engine.load_model("tiny", task="vlm", path=save(folder))
    assert isinstance(runner, VlmRunner)
    return runner


def qwen() -> VisionLanguageRunner:
    model, processor = make_qwen()
    runner = VisionLanguageRunner("qwen", model.eval(), processor)  # type: ignore[no-untyped-call]
    runner.configure(on_this_machine(prefill_tokens=4))
    return runner


@pytest.fixture(params=["llava", "llava-next", "qwen"])
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VisionLanguageRunner]:
    made = {
        "llava": lambda: load(save_llava, tmp_path, prefill_tokens=4),
        "llava-next": lambda: load(save_llava_next, tmp_path, prefill_tokens=4),
        "qwen": qwen,
    }[request.param]()
    yield made
    made.close()


def ask(
    runner: VisionLanguageRunner, words: str, budget: int, *sizes: tuple[int, int], **options: Any
) -> Future[dict[str, Any]]:
    """Ask about images of these sizes, of a colour each."""
    images = [Image.new("RGB", size, (40 * index, 90, 200)) for index, size in enumerate(sizes)]
    content = [*({"type": "image"} for _ in sizes), {"type": "text", "text": words}]
    inputs = {"images": images, "messages": [{"role": "user", "content": content}]}
    return runner.submit(inputs, {"max_new_tokens": budget, **options})


def test_between_two_pieces_of_a_prompt_with_images_the_others_take_a_step(
    runner: VisionLanguageRunner,
) -> None:
    asked = ("a b", 6, *SIZES)
    alone = text(ask(runner, *asked)), text(ask(runner, "c d", 60))
    assert isinstance(runner.texts, RollingLoop)
    watched = Watched(runner.model)
    watched.hold()
    running = ask(runner, "c d", 60)
    watched.let(3)
    for _ in range(3):
        watched.arrived()
    late = ask(runner, *asked)
    watched.go_on()
    assert (text(late), text(running)) == alone
    columns = [shape[1] for shape in watched.shapes]
    images = columns.index(max(columns))
    pieces = [index for index, count in enumerate(columns) if count > 1 and index >= images]
    assert {columns[index] for index in pieces[1:-1]} == {4}
    for before, after in pairwise(pieces):
        assert after - before == 2


def test_rows_with_and_without_images_grow_together_and_get_what_they_get_alone(
    runner: VisionLanguageRunner,
) -> None:
    asked: list[tuple[Any, ...]] = [
        ("a", 20, SIZES[0]),
        ("b c", 9),
        ("d", 30, *SIZES),
        ("e", 3, SIZES[1]),
        ("f g", 25),
    ]
    alone = [text(ask(runner, *one)) for one in asked]
    watched = Watched(runner.model)
    watched.hold()
    together = [ask(runner, *one) for one in asked]
    watched.go_on()
    assert [text(answer) for answer in together] == alone
    assert max(rows for rows, _ in watched.shapes) > 1


def test_a_search_by_beams_beside_it_leaves_positions_as_they_are() -> None:
    runner = qwen()
    alone = text(ask(runner, "a b", 30, *SIZES)), text(ask(runner, "c", 20, SIZES[0], num_beams=3))
    for _ in range(3):
        both = ask(runner, "a b", 30, *SIZES), ask(runner, "c", 20, SIZES[0], num_beams=3)
        more = [ask(runner, "d", 8, size) for size in SIZES]
        assert (text(both[0]), text(both[1])) == alone
        for answer in more:
            answer.result(PATIENCE_S)
    runner.close()


def test_images_too_large_for_the_memory_fail_alone_and_bound_nobody(tmp_path: Path) -> None:
    runner = load(save_llava, tmp_path)
    prompts = ["a", "b c", "d e f"]
    alone = [text(ask(runner, prompt, 20)) for prompt in prompts]
    watched = Watched(runner.model)
    watched.hold()
    good = [ask(runner, prompt, 20) for prompt in prompts]
    large = ask(runner, "a b c", 20, *SIZES)
    too_long = 2 * 9  # tokens of images
    watched.fault = lambda ids: torch.OutOfMemoryError("no room") if ids.shape[1] > too_long else None
    watched.go_on()
    with pytest.raises(OutOfMemory):
        large.result(PATIENCE_S)
    assert [text(answer) for answer in good] == alone
    watched.shapes.clear()
    watched.hold()
    again = [ask(runner, prompt, 20) for prompt in prompts]
    watched.go_on()
    assert [text(answer) for answer in again] == alone
    assert max(rows for rows, _ in watched.shapes) == 3
    runner.close()
