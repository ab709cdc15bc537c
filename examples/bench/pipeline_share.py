"""pipeline-share: classification of sounds and clips on S3, over a bare loop on local files."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    AutoModelForVideoClassification,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from engines.transformers.device import prepare_torch
from examples.bench.benchmark import Benchmark, Chart, Measurement, Target, interleaved, ratios
from examples.bench.context import Context
from examples.bench.media_store import upload
from examples.bench.tiny_models import (
    AUDIO_TASK,
    AUDIO_WEIGHTS,
    VIDEO_TASK,
    VIDEO_WEIGHTS,
    sound_files,
    video_files,
)
from streams.messages import Request
from streams.pipeline.pipeline import Pipeline
from streams.pipeline.runtime import open_runtime

ITEMS, ROUNDS, IN_FLIGHT = 500, 7, 64
PIPELINE, LOOP = "pipeline, from S3", "bare loop, local files"
FIELDS = {AUDIO_TASK: "audio", VIDEO_TASK: "video"}
MODELS = {AUDIO_TASK: ("bench-sounds", AUDIO_WEIGHTS), VIDEO_TASK: ("bench-clips", VIDEO_WEIGHTS)}

Loop = Callable[[Sequence[Path]], list[str]]


async def run(context: Context) -> Measurement:
    """Label every item by both sides, in this process; they must agree on the labels."""
    prepare_torch(1)
    rounds = context.rounds(ROUNDS)
    count = context.scaled(ITEMS, quick=8)
    for task, (name, weights) in MODELS.items():
        context.register(name, {"task": task, "engine": "transformers"}, weights)
    settings = context.site(transformers={"threads": 1, "device": "cpu"}).settings
    made = {AUDIO_TASK: sound_files(count), VIDEO_TASK: video_files(count)}
    loops: dict[str, Loop] = {
        AUDIO_TASK: _sound_loop(settings.worker.batch_max_items),
        VIDEO_TASK: _clip_loop(settings.worker.batch_max_items),
    }
    rates: dict[str, dict[str, list[float]]] = {}
    unlike = 0
    async with open_runtime(settings) as runtime:
        await runtime.warm([name for name, _ in MODELS.values()])
        for task, files in made.items():
            addresses = upload(context.stack, files, folder=task, suffix="bin")
            paths = _written(context.directory / task, files)
            labels: dict[str, list[str]] = {}
            sides = {
                PIPELINE: functools.partial(
                    _rate, labels, PIPELINE, functools.partial(_answered, runtime.pipeline, task, addresses)
                ),
                LOOP: functools.partial(_rate, labels, LOOP, functools.partial(asyncio.to_thread, loops[task], paths)),
            }
            await _answered(runtime.pipeline, task, addresses[:IN_FLIGHT])
            loops[task](paths[:IN_FLIGHT])
            rates[task] = await interleaved(sides, rounds, context.turns(rounds))
            unlike += sum(ours != theirs for ours, theirs in zip(labels[PIPELINE], labels[LOOP], strict=True))
    return Measurement(
        figures={task: ratios(rates[task], PIPELINE, over=LOOP) for task in rates},
        charts=[Chart(f"{task}: items a second", "1/s", its) for task, its in rates.items()],
        notes=[
            f"{count} items a task, {IN_FLIGHT} in flight, one thread of torch, wall clock",
            f"{unlike} of {2 * count} labels differ between the sides",
        ],
        details={"items_per_s": rates},
    )


async def _rate(labels: dict[str, list[str]], side: str, label_all: Callable[[], Any]) -> float:
    began = time.perf_counter()
    labels[side] = await label_all()
    return len(labels[side]) / (time.perf_counter() - began)


async def _answered(pipeline: Pipeline, task: str, addresses: Sequence[str]) -> list[str]:
    """Return the likeliest label of every item."""
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def answer(number: int) -> str:
        request = Request(
            task=task,
            engine="transformers",
            model_name=MODELS[task][0],
            data={FIELDS[task]: addresses[number]},
            id=str(number),
        )
        async with slots:
            result = await pipeline.answer(request)
        if result.result is None:
            raise RuntimeError(str(result.error))
        label: str = result.result["labels"][0]["label"]
        return label

    return await asyncio.gather(*map(answer, range(len(addresses))))


def _written(folder: Path, files: Sequence[bytes]) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number:05d}" for number in range(len(files))]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    return paths


def _sound_loop(batch: int) -> Loop:
    """Return what one writes who has a folder of recordings at the model's own rate, and no need of anything else. Like
    the pipeline, it classifies the whole of each recording, in windows."""
    extractor: Any = AutoFeatureExtractor.from_pretrained(AUDIO_WEIGHTS)  # type: ignore[no-untyped-call]
    model: Any = AutoModelForAudioClassification.from_pretrained(AUDIO_WEIGHTS)
    window = extractor.max_length * extractor.sampling_rate // 100  # a frame is 10 ms

    def windows_of(path: Path) -> list[Any]:
        sound = soundfile.read(path, dtype="float32")[0]
        count = -(-len(sound) // window)
        return [sound[int(at) :][:window] for at in np.linspace(0, max(0, len(sound) - window), count)]

    def label_all(paths: Sequence[Path]) -> list[str]:
        labels: list[str] = []
        for start in range(0, len(paths), batch):
            sounds = [windows_of(path) for path in paths[start : start + batch]]
            windows = [one for sound in sounds for one in sound]
            scores = _scores(model, extractor(windows, sampling_rate=16_000, return_tensors="pt"))
            labels += _likeliest(model, [its.mean(0) for its in scores.split([len(one) for one in sounds])])
        return labels

    return label_all


def _clip_loop(batch: int) -> Loop:
    """Return the same for clips: eight frames of each at equal distances."""
    processor: Any = AutoImageProcessor.from_pretrained(VIDEO_WEIGHTS)  # type: ignore[no-untyped-call]
    model: Any = AutoModelForVideoClassification.from_pretrained(VIDEO_WEIGHTS)
    wanted = model.config.num_frames

    def frames_of(path: Path) -> list[Any]:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return [frames[int(index)] for index in np.linspace(0, len(frames) - 1, wanted)]

    def label_all(paths: Sequence[Path]) -> list[str]:
        labels: list[str] = []
        for start in range(0, len(paths), batch):
            clips = [frames_of(path) for path in paths[start : start + batch]]
            labels += _likeliest(model, _scores(model, processor(clips, return_tensors="pt")))
        return labels

    return label_all


def _scores(model: Any, features: Any) -> Any:
    with torch.inference_mode():
        return model(**features).logits.softmax(-1)


def _likeliest(model: Any, scores: Iterable[Any]) -> list[str]:
    return [model.config.id2label[int(its.argmax())] for its in scores]


BENCHMARK = Benchmark(
    name="pipeline-share",
    what=f"classifiers of sounds and clips (tiny weights), {ITEMS} items from S3; "
    "throughput over a bare loop that batches the same model on local files",
    targets=[Target(AUDIO_TASK, ">=", 0.85), Target(VIDEO_TASK, ">=", 0.85)],
    run=run,
)
