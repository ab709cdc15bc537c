"""memory: what a worker takes before it has a model, and whether it grows with what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import psutil

from examples.bench import noop
from examples.bench.benchmark import Benchmark, Chart, Measurement, Spread, Target
from examples.bench.context import Context
from examples.bench.kafka_load import fill, until_committed
from examples.bench.media_store import upload
from examples.bench.tiny_models import AUDIO_TASK, AUDIO_WEIGHTS, sound_files
from handlers.registry import model_registry
from streams.messages import Request, encode
from tests.integration.worker_process import Site, WorkerProcess

NOOP_REQUESTS, MEDIA_REQUESTS = 20_000, 500
WARM_NOOP_REQUESTS, WARM_MEDIA_REQUESTS = 2_000, 600
"""More than the in-flight window holds: what a full window takes is bounded by settings, and no growth."""
MODEL = "bench-sounds"
_SETTLING_S = 3.0
_SAMPLE_S = 0.5
_MB = 1024**2


async def run(context: Context) -> Measurement:
    """Look at one idle worker of all tasks, then at another before and after what it has to answer."""
    idle_mb = await _idle_mb(context)
    context.register(noop.NAME, noop.TAGS)
    context.register(MODEL, {"task": AUDIO_TASK, "engine": "transformers"}, AUDIO_WEIGHTS)
    site = context.site(
        worker={"plugins": ["examples.bench.plugins"], "tasks": [noop.NAME, AUDIO_TASK]},
        transformers={"threads": 1, "device": "cpu"},
        logging={"level": "WARNING"},
    )
    await site.create_topics([noop.NAME, AUDIO_TASK])
    addresses = upload(context.stack, sound_files(50), folder="memory", suffix="flac")
    loads = {
        "warm-up, no-op": (noop.NAME, context.scaled(WARM_NOOP_REQUESTS, quick=50)),
        "warm-up, media": (AUDIO_TASK, context.scaled(WARM_MEDIA_REQUESTS, quick=5)),
        "no-op": (noop.NAME, context.scaled(NOOP_REQUESTS, quick=100)),
        "media": (AUDIO_TASK, context.scaled(MEDIA_REQUESTS, quick=10)),
    }
    settled_mb: dict[str, float] = {}
    done: dict[str, int] = {}
    with WorkerProcess(site) as worker:
        await worker.started()
        process = psutil.Process(worker.process.pid)
        course: list[float] = []
        sampling = asyncio.create_task(_sample(process, course))
        for name, (task, count) in loads.items():
            context.report(f"{name}: {count} requests", len(settled_mb) / len(loads))
            requests = _requests(task, done.get(task, 0), count, addresses)
            await fill(site, site.topics.requests(task), requests)
            done[task] = done.get(task, 0) + count
            await until_committed(site, site.topics.requests(task), done[task])
            await asyncio.sleep(_SETTLING_S)
            settled_mb[name] = _rss_mb(process)
        sampling.cancel()
        failed = await _failures(site)
        worker.terminate()
    before = settled_mb["warm-up, media"]
    growth = max(settled_mb["no-op"], settled_mb["media"]) / before - 1
    return Measurement(
        figures={"idle": Spread.of([idle_mb]), "growth": Spread.of([growth * 100])},
        charts=[Chart(f"resident memory, every {_SAMPLE_S:g} s", "MB", {"worker": course}, "course")],
        notes=[
            f"{before:.0f} MB with torch and the model after the warm-up, {settled_mb['no-op']:.0f} after "
            f"{loads['no-op'][1]} no-op and {settled_mb['media']:.0f} after {loads['media'][1]} media requests",
            f"{failed} of all requests failed",
        ],
        details={"settled_mb": settled_mb, "idle_mb": idle_mb},
    )


async def _idle_mb(context: Context) -> float:
    """Return what a worker of every built-in task holds once it has joined its group."""
    context.report("an idle worker", 0.0)
    site = context.site(logging={"level": "WARNING"})
    await site.create_topics(model_registry.tasks())
    with WorkerProcess(site) as worker:
        await worker.started()
        await asyncio.sleep(_SETTLING_S)
        return _rss_mb(psutil.Process(worker.process.pid))


def _rss_mb(process: psutil.Process) -> float:
    return process.memory_info().rss / _MB


async def _sample(process: psutil.Process, course: list[float]) -> None:
    while True:
        course.append(_rss_mb(process))
        await asyncio.sleep(_SAMPLE_S)


def _requests(task: str, first: int, count: int, addresses: Sequence[str]) -> Iterable[bytes]:
    for number in range(first, first + count):
        if task == noop.NAME:
            yield noop.noop_request(number)
        else:
            data = {"audio": addresses[number % len(addresses)]}
            yield encode(Request(task=task, engine="transformers", model_name=MODEL, id=f"media-{number}", data=data))


async def _failures(site: Site) -> int:
    failed = 0
    for task in (noop.NAME, AUDIO_TASK):
        records = await site.everything(site.topics.results(task))
        failed += sum(b'"success":false' in record.value for record in records)
    return failed


BENCHMARK = Benchmark(
    name="memory",
    what=f"worker RSS idle without a model; growth over {NOOP_REQUESTS} no-op and {MEDIA_REQUESTS} media requests",
    targets=[Target("idle", "<=", 350, "MB"), Target("growth", "<=", 5, "%")],
    run=run,
)
