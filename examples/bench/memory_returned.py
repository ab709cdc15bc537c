"""memory-returned: what a process keeps of a mixed burst once its cache is cleared, over what it took before."""

from __future__ import annotations

import asyncio
import base64

import httpx
import psutil

from examples.bench.benchmark import Benchmark, Chart, Measurement, Spread, Target
from examples.bench.context import Context
from examples.bench.http_load import ask
from examples.bench.http_servers import ours
from examples.bench.tiny_models import AUDIO_TASK, AUDIO_WEIGHTS, VIDEO_TASK, VIDEO_WEIGHTS
from streams.messages import Request, encode
from tests.contract import samples
from tests.models.vlm import WEIGHTS as VLM_WEIGHTS

TEXT, SPEECH, PAGES = "smollm2-135m-instruct", "whisper-tiny.en", "pp-ocrv5-mobile"
SOUNDS, CLIPS, DRAWINGS = "bench-sounds", "bench-clips", "bench-drawings"
ROUNDS, OF_EACH, CONNECTIONS = 3, 40, 32
_SETTLED_S = 15.0
"""Seconds after a clearing until memory is looked at: longer than the process waits before it gives any back."""
_MB = 1024**2
_PATH = "/inference/infer"


async def run(context: Context) -> Measurement:
    """Answer one request of each task, clear the cache and look; then the same with bursts of all tasks at once."""
    for model in (TEXT, SPEECH, PAGES):
        context.prepared_model(model)
    context.register(SOUNDS, {"task": AUDIO_TASK, "engine": "transformers"}, AUDIO_WEIGHTS)
    context.register(CLIPS, {"task": VIDEO_TASK, "engine": "transformers"}, VIDEO_WEIGHTS)
    context.register(DRAWINGS, {"task": "vlm", "engine": "transformers"}, VLM_WEIGHTS)
    site = context.site(
        transformers={"threads": 1, "device": "cpu"}, http={"max_pending": 1024}, logging={"level": "WARNING"}
    )
    bodies = _bodies()
    rounds = context.rounds(ROUNDS)
    with ours(site) as server:
        await server.listening()
        process = psutil.Process(server.pid)
        course = [_rss_mb(process)]
        await ask(server.url, _PATH, bodies, 1)
        base_mb = await _cleared_mb(server.url, process, course)
        ratios = []
        for number in range(rounds):
            context.report(f"burst {number + 1} of {rounds}", number / rounds)
            await ask(server.url, _PATH, bodies * context.scaled(OF_EACH, quick=2), CONNECTIONS)
            ratios.append(await _cleared_mb(server.url, process, course) / base_mb)
    return Measurement(
        figures={"ratio": Spread.of(ratios)},
        charts=[Chart("resident memory: start, then loaded and cleared in turns", "MB", {"serve": course}, "course")],
        notes=[
            f"{course[0]:.0f} MB without torch; {base_mb:.0f} MB with the libraries of all tasks, the models gone",
            f"a burst has {len(bodies)} tasks, {CONNECTIONS} requests at a time; with its models a process took "
            f"{max(course):.0f} MB",
        ],
        details={"mb": course},
    )


async def _cleared_mb(url: str, process: psutil.Process, course: list[float]) -> float:
    """Clear the cache and return what the process takes a while later."""
    course.append(_rss_mb(process))
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        (await http.delete("/inference/cache")).raise_for_status()
    await asyncio.sleep(_SETTLED_S)
    course.append(_rss_mb(process))
    return course[-1]


def _rss_mb(process: psutil.Process) -> float:
    return process.memory_info().rss / _MB


def _bodies() -> list[bytes]:
    """Return a request of each task."""
    asked: dict[str, tuple[str, dict[str, str], dict[str, object]]] = {
        "text-generation": (TEXT, {"inputs": "Name three colours."}, {"max_new_tokens": 16}),
        "asr": (SPEECH, {"audio": _uri(samples.speech())}, {}),
        "ocr": (PAGES, {"image": _uri(samples.sign())}, {}),
        "document-analysis": (PAGES, {"document": _uri(samples.letter())}, {}),
        AUDIO_TASK: (SOUNDS, {"audio": _uri(samples.rising_tone())}, {}),
        VIDEO_TASK: (CLIPS, {"video": _uri(samples.square_to_the_left())}, {}),
        "vlm": (DRAWINGS, {"image": _uri(samples.drawing()), "prompt": "Describe the image."}, {}),
    }
    return [
        encode(Request(task=task, engine="transformers", model_name=model, data=data, options=options))
        for task, (model, data, options) in asked.items()
    ]


def _uri(content: bytes) -> str:
    return "data:;base64," + base64.b64encode(content).decode()


BENCHMARK = Benchmark(
    name="memory-returned",
    what="RSS after a mixed burst and a cleared cache, over RSS before it, after one request of each task",
    targets=[Target("ratio", "<=", 1.3)],
    run=run,
)
