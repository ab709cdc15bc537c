"""cache: what a request to a model in memory pays for the cache, and how often cold models are loaded."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from engines.inference import InferenceManager
from engines.resolved_model import ResolvedModel
from engines.settings import EngineSettings
from engines.transformers.engine import TransformersEngine
from examples.bench.benchmark import Benchmark, Chart, Measurement, Spread, Target
from examples.bench.context import Context
from examples.bench.tiny_models import AUDIO_TASK, AUDIO_WEIGHTS
from handlers.audio_classification import AudioClassificationHandler
from tests.models.audio.sounds import RATE, Sounds

MODELS = ("bench-sounds", "bench-sounds-too")
THREADS, COLD_ROUNDS = 8, 5
ROUNDS, CALLS = 5, 150
CACHED, DIRECT = "through the cache", "direct"


async def run(context: Context) -> Measurement:
    """Call one by one, by turns through the manager and by itself; then ask for cold models from threads."""
    for name in MODELS:
        context.register(name, {"task": AUDIO_TASK, "engine": "transformers"}, AUDIO_WEIGHTS)
    settings = context.site(transformers={"threads": 1, "device": "cpu"}).settings
    return await asyncio.to_thread(_measure, context, settings)


def _measure(context: Context, settings: EngineSettings) -> Measurement:
    rounds = context.rounds(ROUNDS)
    calls = context.scaled(CALLS, quick=3)
    sounds = Sounds(1, held_out=True)
    data = {"audio": sounds.make("speech", seconds=2.0), "sampling_rate": RATE}
    taken_ms: dict[str, list[float]] = {CACHED: [], DIRECT: []}
    overheads = []
    manager = InferenceManager.from_settings(settings)
    try:
        sides = {
            CACHED: lambda: _through_manager(manager, MODELS[0], data),
            DIRECT: _direct(settings, AUDIO_WEIGHTS, data),
        }
        for call in (*sides.values(), *sides.values()):
            call()
        for number in range(rounds):
            context.report(f"round {number + 1} of {rounds}", number / rounds)
            this_round: dict[str, list[float]] = {name: [] for name in sides}
            for position in range(calls):
                # Call by call in turns: a call takes milliseconds, in which the machine does the same for both.
                for name in list(sides) if position % 2 else reversed(list(sides)):
                    this_round[name].append(_timed_ms(sides[name]))
            overheads.append(float(np.median(this_round[CACHED]) / np.median(this_round[DIRECT])))
            for name, taken in this_round.items():
                taken_ms[name] += taken
    finally:
        manager.close()
    cold_rounds = context.scaled(COLD_ROUNDS, quick=1)
    loads = [_loads(settings, data) for _ in range(cold_rounds)]
    by_call = ", ".join(f"{name} {np.median(taken):.2f} ms" for name, taken in taken_ms.items())
    return Measurement(
        figures={"ratio": Spread.of(overheads), "loads": Spread.of(loads)},
        charts=[Chart("time of a call", "ms", taken_ms, "distribution")],
        notes=[
            f"median of a call on an audio classifier of 0.25 million parameters: {by_call}",
            f"{THREADS} threads asked for {len(MODELS)} cold models at once, {cold_rounds} times over",
        ],
        details={"loads": loads},
    )


def _through_manager(manager: InferenceManager, model_name: str, data: dict[str, Any]) -> None:
    result = manager.infer(task=AUDIO_TASK, engine="transformers", model_name=model_name, data=data)
    if not result["success"]:
        raise RuntimeError(str(result["error"]))


def _direct(settings: EngineSettings, folder: Path, data: dict[str, Any]) -> Callable[[], object]:
    """Return a call of the same handler and engine on a model that is held by hand."""
    engine = TransformersEngine(settings.transformers)
    model = engine.load_model("direct", task=AUDIO_TASK, path=folder)
    handler = AudioClassificationHandler(settings.media)

    def call() -> object:
        return handler.postprocess(engine.infer(model, handler.preprocess(data, {}), {}), {})

    return call


def _timed_ms(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def _loads(settings: EngineSettings, data: dict[str, Any]) -> int:
    """Return how many loads it takes until threads that start at once have answers of two cold models."""
    told: Counter[str] = Counter()

    def on_model(kind: str, model: ResolvedModel, details: Mapping[str, Any]) -> None:
        told[kind] += 1

    manager = InferenceManager.from_settings(settings, on_model=on_model)
    together = threading.Barrier(THREADS)

    def ask(number: int) -> None:
        together.wait()
        _through_manager(manager, MODELS[number % len(MODELS)], data)

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
    f"{len(MODELS)} cold models: loads",
    targets=[Target("ratio", "<=", 1.05), Target("loads", "==", 2)],
    run=run,
)
