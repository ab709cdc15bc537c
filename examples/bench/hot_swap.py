"""hot-swap: an alias that moves under load costs no request, and none gets the wrong version."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

from engines.models.model_manager import ModelManager
from engines.models.resolved_model import ResolvedModel
from examples.bench import timed
from examples.bench.benchmark import Benchmark, Chart, Measurement, Spread, Target
from examples.bench.context import Context
from examples.bench.stopwatch import Answered, Stopwatch
from tests.integration.worker_process import WorkerProcess

MODEL, ALIAS = "swapping", "live"
FLIPS, RATE_PER_S, REQUEST_S, BETWEEN_FLIPS_S = 5, 50.0, 0.005, 5.0
POLL_S, GRACE_S = 1.0, 2.5
"""How often workers look where the alias points, and how long after a flip the old version may still answer."""


@dataclass(frozen=True, slots=True)
class Flip:
    """The alias stood for `version` from `at` on, by the monotonic clock."""

    at: float
    version: str


async def run(context: Context) -> Measurement:
    """Send at a steady rate while the alias moves to and fro between two versions."""
    models = context.models()
    versions = [_version(models, variant) for variant in ("a", "b")]
    count = context.scaled(FLIPS, quick=1)
    site = context.site(
        mlflow={"alias_poll_s": POLL_S},
        worker={"plugins": ["examples.bench.plugins"], "tasks": list(timed.TASKS)},
        logging={"level": "WARNING"},
    )
    await site.create_topics(timed.TASKS)
    flips = [_flip(models, versions[0])]
    requests, results = site.topics.requests(timed.IN_BATCHES), site.topics.results(timed.IN_BATCHES)
    async with Stopwatch(site.settings.kafka, requests, results) as stopwatch:
        with WorkerProcess(site) as worker:
            await worker.started()
            await stopwatch.send(*_request(0))
            await stopwatch.answered([_request(0)[0]])  # it waits for the model, as no later one should
            total = int((count + 1) * BETWEEN_FLIPS_S * RATE_PER_S)
            sending = asyncio.create_task(stopwatch.send_evenly(map(_request, range(1, total)), rate_per_s=RATE_PER_S))
            for number in range(1, count + 1):
                context.report(f"flip {number} of {count}", number / (count + 1))
                await asyncio.sleep(BETWEEN_FLIPS_S)
                flips.append(await asyncio.to_thread(_flip, models, versions[number % 2]))
            await sending
            answers = await stopwatch.answered(_request(number)[0] for number in range(1, total))
            worker.terminate()
    failed = [answer for answer in answers if not json.loads(answer.value)["success"]]
    wrong = [answer for answer in answers if answer not in failed and is_wrong(answer, flips)]
    slowest = max(answer.ms for answer in answers)
    return Measurement(
        figures={"failed": Spread.of([len(failed)]), "wrong": Spread.of([len(wrong)])},
        charts=[Chart("time to the answer, by request", "ms", {"": [answer.ms for answer in answers]}, "course")],
        notes=[
            f"{len(answers)} requests, {count} flips; the longest wait for an answer was {slowest:.0f} ms, "
            f"where loading a version takes {timed.LOAD_S * 1000:.0f} ms",
            f"the old version may answer what is sent up to {GRACE_S:g} s after a flip (alias_poll_s is {POLL_S:g})",
        ],
        details={"first_failures": [answer.value.decode() for answer in failed[:3]]},
    )


def is_wrong(answer: Answered, flips: list[Flip]) -> bool:
    """Return whether a version answered that the alias did not stand for, or another than the result says."""
    result: dict[str, Any] = json.loads(answer.value)
    answered_by = result["result"]["version"]
    if answered_by != result["model_version"]:
        return True
    allowed = {flip.version for flip in flips if answer.sent_at - GRACE_S <= flip.at <= answer.came_at}
    before = [flip for flip in flips if flip.at < answer.sent_at - GRACE_S]
    if before:
        allowed.add(before[-1].version)
    return answered_by not in allowed


def _request(number: int) -> tuple[str, bytes]:
    identity = f"swap-{number}"
    return identity, timed.timed_request(identity, timed.IN_BATCHES, f"{MODEL}@{ALIAS}", REQUEST_S)


def _version(models: ModelManager, variant: str) -> ResolvedModel:
    tags = {"task": timed.IN_BATCHES, "engine": timed.ENGINE, "physical_path": f"/no-files/{variant}"}
    return models.register_model_to_mlflow(model_name=MODEL, model_source="local", tags=tags)


def _flip(models: ModelManager, version: ResolvedModel) -> Flip:
    # Stamped before the call: from here on the new version may be what is answered.
    at = time.monotonic()
    models.set_alias(version, ALIAS)
    return Flip(at, version.version)


BENCHMARK = Benchmark(
    name="hot-swap",
    what=f"alias flipped {FLIPS} times under load: failed requests, requests that saw a wrong version",
    targets=[Target("failed", "==", 0), Target("wrong", "==", 0)],
    run=run,
)
