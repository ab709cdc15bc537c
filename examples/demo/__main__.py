"""The whole product in one run: servers, models, a worker, real requests, and their answers in a table."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.local import StackError
from deploy.models import prepare
from deploy.models.progress_bars import progress_bars
from examples.demo.cases import SPEECH_MODEL, TEXT_MODEL, Case, answer_of, cases, uploads
from examples.demo.report import Outcome, show
from streams.client import InferenceClient
from streams.local_platform import LocalPlatform
from streams.local_status import StatusLines
from streams.topic_reader import TopicReader
from streams.topics import Topics

PATIENCE_S = 240.0
"""Longest wait for all answers; one that has not come by then counts as lost."""


def main() -> int:
    """Run the demo and return its exit status."""
    console = Console()
    console.rule("models")
    with progress_bars(console) as report:
        folders = {name: prepare(name, progress=report) for name in (TEXT_MODEL, SPEECH_MODEL)}
    console.rule("servers")
    with StatusLines(console) as lines, LocalPlatform(Path(".local"), on_status=lines.show) as platform:
        for name, folder in folders.items():
            lines.note(f"registering {name} in MLflow …")
            platform.register_model(name, folder)
        lines.note("")
        bucket = _upload(platform)
        lines.pause()
        console.rule("requests")
        outcomes, lost = asyncio.run(_answers(platform, cases(bucket), console))
        console.rule("answers")
        status = show(console, outcomes, lost)
        console.rule("stopping")
        lines.resume()
    return status


def _upload(platform: LocalPlatform) -> str:
    store = platform.stack.s3_client()
    bucket = platform.stack.endpoints.s3_bucket
    try:
        for upload in uploads():
            store.put_object(Bucket=bucket, Key=upload.key, Body=upload.content)
    finally:
        store.close()
    return bucket


async def _answers(
    platform: LocalPlatform, to_send: list[Case], console: Console
) -> tuple[list[Outcome], list[Case]]:
    """Produce every case and collect what comes back; the second list holds those for which nothing came."""
    kafka = platform.settings.kafka
    columns = (TextColumn("answers"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    tasks = sorted({case.task for case in to_send})
    topics = Topics(kafka.topic_prefix)
    outcomes: list[Outcome] = []
    async with (
        TopicReader(kafka, [topics.dead_letters(task) for task in tasks], start="end") as dead_letters,
        InferenceClient(kafka, tasks=tasks) as client,
    ):
        with Progress(*columns, console=console) as bar:
            row = bar.add_task("answers", total=len(to_send))

            async def follow(case: Case) -> None:
                outcome = await _follow(client, dead_letters, case)
                outcomes.append(outcome)
                bar.advance(row)

            running = {case: asyncio.create_task(follow(case)) for case in to_send}
            await asyncio.wait(running.values(), timeout=PATIENCE_S)
            lost = [case for case, task in running.items() if not task.done()]
            for task in running.values():
                task.cancel()
            failed = (await asyncio.gather(*running.values(), return_exceptions=True)).copy()
    for error in failed:
        if isinstance(error, Exception):
            raise error
    order = {case: number for number, case in enumerate(to_send)}
    return sorted(outcomes, key=lambda outcome: order[outcome.case]), lost


async def _follow(client: InferenceClient, dead_letters: TopicReader, case: Case) -> Outcome:
    began = time.monotonic()
    if case.identity:
        future = client.expect(case.identity)
        await client.send_bytes(case.task, case.value, key=case.identity.encode())
        result = await future
        answer = result.error.message if result.error else answer_of(result)
        return Outcome(case, answer, time.monotonic() - began, case.problem(result))
    key = b"no id"
    await client.send_bytes(case.task, case.value, key=key)
    async for record in dead_letters.records():
        if record.key == key:
            headers = dict(record.headers)
            code = headers["__dlq.errors.exception.class"].decode()
            problem = (
                None if code == case.refusal and record.value == case.value else f"dead letter says {code}"
            )
            answer = "dead letter: " + headers["__dlq.errors.message"].decode()
            return Outcome(case, answer, time.monotonic() - began, problem)
    raise AssertionError("reading a topic never ends by itself")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StackError as error:
        Console(stderr=True).print(f"[bold red]✗[/bold red] {error}", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
