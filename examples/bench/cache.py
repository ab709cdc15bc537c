"""cache: what a request to a model in memory pays for the cache, and how often cold models are loaded."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engines.config.settings import EngineSettings
from engines.inference import InferenceManager
from engines.models.resolved_model import ResolvedModel
from engines.transformers.engine import TransformersEngine
from examples.bench.asr_share import clips
from examples.bench.benchmark import Benchmark, Chart, Measurement, Spread, Target
from examples.bench.context import Context
from examples.bench.tiny_models import AUDIO_TASK, AUDIO_WEIGHTS
from handlers.base import BaseModelHandler
from handlers.recording import AsrHandler, AudioClassificationHandler
from handlers.settings import MediaSettings
from tests.models.audio.sounds import RATE, Sounds

REAL_MODEL, TINY_MODELS = "whisper-tiny.en", ("bench-sounds", "bench-sounds-too")
THREADS, COLD_ROUNDS = 8, 5
ROUNDS, REAL_CALLS, TINY_CALLS = 5, 12, 150
CACHED, DIRECT = "through the cache", "direct"


@dataclass(frozen=True, slots=True)
class Call:
    """One request, again and again: the task, its handler, the model by name and by folder, and the data."""

    task: str
    handler: Callable[[MediaSettings], BaseModelHandler]
    model_name: str
    folder: Path
    data: dict[str, Any]

    def through(self, manager: InferenceManager) -> None:
        """Ask the manager.

        Raises:
            RuntimeError: the request failed.
        """
        result = manager.infer(task=self.task, engine="transformers", model_name=self.model_name, data=self.data)
        if not result["success"]:
            raise RuntimeError(str(result["error"]))

    def directly(self, settings: EngineSettings) -> Callable[[], object]:
        """Return a call of the same handler and engine on a model that is held by hand."""
        engine = TransformersEngine(settings.transformers)
        model = engine.load_model("direct", task=self.task, path=self.folder)
        handler = self.handler(settings.media)

        def call() -> object:
            return handler.postprocess(engine.infer(model, handler.preprocess(self.data, {}), {}), {})

        return call


async def run(context: Context) -> Measurement:
    """Call one by one, by turns through the manager and by itself; then ask for cold models from threads."""
    for name in TINY_MODELS:
        context.register(name, {"task": AUDIO_TASK, "engine": "transformers"}, AUDIO_WEIGHTS)
    folder = context.prepared_model(REAL_MODEL)
    settings = context.site(transformers={"threads": 1, "device": "cpu"}).settings
    return await asyncio.to_thread(_measure, context, settings, folder)


def _measure(context: Context, settings: EngineSettings, folder: Path) -> Measurement:
    sound = {"audio": Sounds(1, held_out=True).make("speech", seconds=2.0), "sampling_rate": RATE}
    speech = {"audio": clips()[0][: 4 * RATE], "sampling_rate": RATE}
    real = Call("asr", AsrHandler, REAL_MODEL, folder, speech)
    tiny = Call(AUDIO_TASK, AudioClassificationHandler, TINY_MODELS[0], AUDIO_WEIGHTS, sound)
    manager = InferenceManager.from_settings(settings)
    try:
        in_real = _timed(context, manager, settings, real, context.scaled(REAL_CALLS, quick=2))
        in_tiny = _timed(context, manager, settings, tiny, context.scaled(TINY_CALLS, quick=3))
    finally:
        manager.close()
    cold_rounds = context.scaled(COLD_ROUNDS, quick=1)
    loads = [_loads(settings, tiny) for _ in range(cold_rounds)]
    return Measurement(
        figures={"ratio": _overhead(in_real), "loads": Spread.of(loads)},
        charts=[
            Chart(f"time of a call, {call.model_name}", "ms", _joined(rounds), "distribution")
            for call, rounds in ((real, in_real), (tiny, in_tiny))
        ],
        notes=[
            f"median of a call on {REAL_MODEL}, 4 s of speech: {_in_words(in_real)}",
            f"on an audio classifier of 0.25 million parameters: {_in_words(in_tiny)}; what the cache and all "
            "checks around it take shows here",
            f"{THREADS} threads asked for {len(TINY_MODELS)} cold models at once, {cold_rounds} times over",
        ],
        details={"loads": loads, "ratio_of_the_small_one": asdict(_overhead(in_tiny))},
    )


def _timed(
    context: Context, manager: InferenceManager, settings: EngineSettings, call: Call, calls: int
) -> list[dict[str, list[float]]]:
    """Return the milliseconds of each call, by side, round by round."""
    sides: dict[str, Callable[[], object]] = {
        CACHED: functools.partial(call.through, manager),
        DIRECT: call.directly(settings),
    }
    for warm in (*sides.values(), *sides.values()):
        warm()
    rounds = context.rounds(ROUNDS)
    taken: list[dict[str, list[float]]] = []
    for number in range(rounds):
        context.report(f"{call.model_name}: round {number + 1} of {rounds}", number / rounds)
        taken.append({name: [] for name in sides})
        for position in range(calls):
            # Call by call in turns: a call takes milliseconds, in which the machine does the same for both.
            for name in list(sides) if position % 2 else reversed(list(sides)):
                taken[-1][name].append(_timed_ms(sides[name]))
    return taken


def _overhead(rounds: Sequence[Mapping[str, Sequence[float]]]) -> Spread:
    return Spread.of([float(np.median(its[CACHED]) / np.median(its[DIRECT])) for its in rounds])


def _joined(rounds: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    return {side: [ms for its in rounds for ms in its[side]] for side in (CACHED, DIRECT)}


def _in_words(rounds: Sequence[Mapping[str, Sequence[float]]]) -> str:
    return ", ".join(f"{side} {np.median(taken):.2f} ms" for side, taken in _joined(rounds).items())


def _timed_ms(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def _loads(settings: EngineSettings, call: Call) -> int:
    """Return how many loads it takes until threads that start at once have answers of two cold models."""
    told: Counter[str] = Counter()

    def on_model(kind: str, model: ResolvedModel, details: Mapping[str, Any]) -> None:
        told[kind] += 1

    manager = InferenceManager.from_settings(settings, on_model=on_model)
    together = threading.Barrier(THREADS)

    def ask(number: int) -> None:
        together.wait()
        replace(call, model_name=TINY_MODELS[number % len(TINY_MODELS)]).through(manager)

    try:
        with ThreadPoolExecutor(THREADS) as threads:
            for asked in [threads.submit(ask, number) for number in range(THREADS)]:
                asked.result()
    finally:
        manager.close()
    return told["model_loaded"]


BENCHMARK = Benchmark(
    name="cache",
    what=f"second request to a cached model over a direct call; {THREADS} threads asking for "
    f"{len(TINY_MODELS)} cold models: loads",
    targets=[Target("ratio", "<=", 1.05), Target("loads", "==", 2)],
    run=run,
)
