"""asr-share: speech to text through the pipeline, over a direct loop of transformers and over faster-whisper."""

from __future__ import annotations

import asyncio
import functools
import io
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from transformers import AutoProcessor, WhisperForConditionalGeneration

from engines.transformers.device import prepare_torch
from examples.bench.benchmark import Benchmark, Chart, Measurement, Spread, Target, interleaved, ratios
from examples.bench.context import Context
from examples.bench.faster_whisper_loop import faster_whisper
from examples.bench.media_store import upload
from streams.messages import Request
from streams.pipeline.pipeline import Pipeline
from streams.pipeline.runtime import open_runtime
from tests.recordings import librivox_recordings, normalized

MODEL = "whisper-base"
ROUNDS = 3
PIPELINE, LOOP, FASTER = "pipeline", "transformers loop", "faster-whisper"
RATE = 16_000
_BATCH = 8
_PAUSE_S = 0.6
ORDERS = ("a", "b", "ab", "ba", "aab", "bb", "a", "abb", "b", "aa", "bab", "abab")
"""The clips: which of the two recordings follow each other in each."""
SPEEDS = (1.0, 0.93, 1.07)

Loop = Callable[[Sequence[Path]], tuple[list[str], float]]
Transcribe = Callable[[], Awaitable[tuple[list[str], float]]]
"""Transcribes all clips; returns the texts, and the seconds of CPU time it took."""


async def run(context: Context) -> Measurement:
    """Transcribe the same clips by every side, on one thread each; the clock is CPU time."""
    prepare_torch(1)
    rounds = context.rounds(ROUNDS)
    folder = context.prepared_model(MODEL)
    settings = context.site(transformers={"threads": 1, "device": "cpu"}).settings
    made = clips()[: context.scaled(len(ORDERS), quick=2)]
    addresses = upload(context.stack, [_flac(one) for one in made], folder="asr", suffix="flac")
    paths = []
    for number, clip in enumerate(made):
        paths.append(context.directory / f"{number}.flac")
        paths[-1].write_bytes(_flac(clip))
    seconds = sum(len(clip) for clip in made) / RATE
    heard: dict[str, list[str]] = {}
    wall_s: dict[str, list[float]] = {}
    context.report("loading the model twice", 0.0)
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(open_runtime(settings))
        await runtime.warm([MODEL])
        loops: dict[str, Loop] = {LOOP: _timed(_direct_loop(folder))}
        if find_spec("faster_whisper") is not None:
            loops[FASTER] = stack.enter_context(faster_whisper(folder, context.directory))
        context.report("a first clip by each side", 0.0)
        await _answered(runtime.pipeline, addresses[:1])
        for loop in loops.values():
            await asyncio.to_thread(loop, paths[:1])
        sides: dict[str, Transcribe] = {
            PIPELINE: functools.partial(_answered, runtime.pipeline, addresses),
            **{side: functools.partial(asyncio.to_thread, loop, paths) for side, loop in loops.items()},
        }
        speeds = await interleaved(
            {side: functools.partial(_speed, side, call, seconds, heard, wall_s) for side, call in sides.items()},
            rounds,
            context.turns(rounds, sides=len(sides)),
        )
    figures = {f"over {side}": ratios(speeds, PIPELINE, over=side) for side in (LOOP, FASTER) if side in speeds}
    return Measurement(
        figures=figures,
        charts=[Chart("seconds of speech in a second of CPU time", "x", speeds)],
        notes=_notes(speeds, wall_s, heard, seconds),
        details={"speed": speeds, "wall_s": wall_s, "heard": heard},
    )


def clips() -> list[NDArray[np.float32]]:
    """Return clips of 3 to 19 s made of the two recordings, at slightly different speeds."""
    recordings = dict(
        zip(
            "ab",
            (soundfile.read(one.path, dtype="float32")[0] for one in librivox_recordings()),
            strict=True,
        )
    )
    pause = np.zeros(int(_PAUSE_S * RATE), np.float32)
    made = []
    for number, order in enumerate(ORDERS):
        parts = [part for name in order for part in (recordings[name], pause)]
        spoken = np.concatenate(parts[:-1])
        made.append(soxr.resample(spoken, RATE * SPEEDS[number % len(SPEEDS)], RATE).astype(np.float32))
    return made


def _flac(samples: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="FLAC")
    return file.getvalue()


async def _speed(
    side: str,
    call: Transcribe,
    seconds: float,
    heard: dict[str, list[str]],
    wall_s: dict[str, list[float]],
) -> float:
    """Return how many seconds of speech the side transcribes in one second of CPU time."""
    began = time.perf_counter()
    heard[side], cpu_s = await call()
    wall_s.setdefault(side, []).append(time.perf_counter() - began)
    return seconds / cpu_s


def _timed(transcribe: Callable[[Sequence[Path]], list[str]]) -> Loop:
    """Add the CPU time of this process."""

    def timed(paths: Sequence[Path]) -> tuple[list[str], float]:
        began = time.process_time()
        return transcribe(paths), time.process_time() - began

    return timed


async def _answered(pipeline: Pipeline, addresses: Sequence[str]) -> tuple[list[str], float]:
    async def answer(number: int, address: str) -> str:
        request = Request(
            task="asr",
            engine="transformers",
            model_name=MODEL,
            data={"audio": address},
            options={"language": "en"},
            id=str(number),
        )
        result = await pipeline.answer(request)
        if result.result is None:
            raise RuntimeError(str(result.error))
        text: str = result.result["text"]
        return text

    began = time.process_time()
    texts = await asyncio.gather(*(answer(number, one) for number, one in enumerate(addresses)))
    return texts, time.process_time() - began


def _direct_loop(folder: Path) -> Callable[[Sequence[Path]], list[str]]:
    """Return the loop one writes by hand: batches of clips of at most 30 s, with timestamps as the pipeline has."""
    processor: Any = AutoProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
    model: Any = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)

    def transcribe(paths: Sequence[Path]) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(paths), _BATCH):
            sounds = [soundfile.read(path, dtype="float32")[0] for path in paths[start : start + _BATCH]]
            features = processor(sounds, sampling_rate=RATE, return_attention_mask=True, return_tensors="pt")
            with torch.inference_mode():
                tokens = model.generate(**features, language="en", task="transcribe", return_timestamps=True)
            texts += processor.batch_decode(tokens, skip_special_tokens=True)
        return texts

    return transcribe


def _notes(
    speeds: dict[str, list[float]],
    wall_s: dict[str, list[float]],
    heard: dict[str, list[str]],
    seconds: float,
) -> list[str]:
    by_side = ", ".join(f"{side} {Spread.of(of_side).median:.2f}" for side, of_side in speeds.items())
    by_wall = ratios(wall_s, LOOP, over=PIPELINE).median
    unlike = sum(
        normalized(ours) != normalized(theirs) for ours, theirs in zip(heard[PIPELINE], heard[LOOP], strict=True)
    )
    return [
        f"{seconds:.0f} s of speech in {len(heard[PIPELINE])} clips; so much of it in a second of CPU time: {by_side}",
        f"one thread each and the CPU time of the process as clock; by the wall clock over the loop {by_wall:.2f}",
        f"{unlike} of {len(heard[PIPELINE])} texts differ between pipeline and loop in a word",
        *(
            []
            if FASTER in speeds
            else ["faster-whisper is not installed here (make bench installs it), so it was not measured"]
        ),
    ]


BENCHMARK = Benchmark(
    name="asr-share",
    what=f"Whisper base fp32, {len(ORDERS)} clips through the pipeline; throughput over a direct batched "
    "transformers loop, and over faster-whisper float32",
    targets=[Target(f"over {LOOP}", ">=", 0.95), Target(f"over {FASTER}", ">=", 0.9)],
    run=run,
)
