"""`inferstream up`: everything on this machine, in the foreground."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli import examples

if TYPE_CHECKING:
    from rich.console import RenderableType

    from streams.local_platform import LocalPlatform

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

_HTTP_EXAMPLE = (
    '{"task": "text-generation", "engine": "transformers", "model_name": "smollm2-135m-instruct", '
    '"data": {"inputs": "What is the capital of France?"}}'
)

DEFAULT_MODELS = ["smollm2-135m-instruct", "whisper-base"]


@app.command(
    epilog=examples(
        "inferstream up",
        "inferstream up --model whisper-tiny.en --directory ./try",
        "inferstream up --no-models",
        "inferstream up --kafka-home ~/kafka_2.13-4.3.1 --brokers 3",
    )
)
def up(
    directory: Annotated[Path, typer.Option(help="Where data and logs live.")] = Path(".local"),
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"Model to register; repeatable. Default: {', '.join(DEFAULT_MODELS)}."),
    ] = None,
    no_models: Annotated[bool, typer.Option("--no-models", help="Register no model.")] = False,
    kafka_home: Annotated[
        Path | None,
        typer.Option(
            help="An unpacked release of Apache Kafka, to run in place of the embedded broker; needs Java 17."
        ),
    ] = None,
    brokers: Annotated[
        int | None, typer.Option(help="Brokers of Apache Kafka: 1, or 3 with three copies of each topic.")
    ] = None,
) -> None:
    """Start broker, S3, MLflow and a worker on this machine; Ctrl-C stops them all.

    Data stays in the folder and is there again at the next start; only the embedded broker forgets its topics. One
    broker's data and three brokers' are kept apart. While it runs, every other command in this folder finds it.
    """
    if brokers is not None and kafka_home is None:
        raise typer.BadParameter(
            "the embedded broker is always one; name a release of Apache Kafka with --kafka-home DIR",
            param_hint="--brokers",
        )
    if brokers not in (None, 1, 3):
        raise typer.BadParameter(f"{brokers} is neither 1 nor 3", param_hint="--brokers")
    from rich.console import Console

    from deploy.local import KafkaRelease
    from deploy.models import prepare
    from deploy.models.progress_bars import progress_bars
    from streams.local_models import LocalModel
    from streams.local_platform import LocalPlatform
    from streams.local_status import StatusLines

    # Before models are fetched, which may take minutes.
    kafka = None if kafka_home is None else KafkaRelease.find(kafka_home)
    # Its warnings, such as that a topic just made has no leader yet, would run into the lines of the parts.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    console = Console()
    names = [] if no_models else model or DEFAULT_MODELS
    with _sigterm_like_ctrl_c():
        with progress_bars(console) as report:
            folders = {name: prepare(name, progress=report) for name in names}
        models = [LocalModel.prepared(name, folder) for name, folder in folders.items()]
        warm = {"worker": {"warm": names}}  # else the first request waits for torch to be imported
        with (
            StatusLines(console) as lines,
            LocalPlatform(
                directory,
                models=models,
                overrides=warm,
                kafka=kafka,
                brokers=brokers or 1,
                on_status=lines.show,
            ) as platform,
        ):
            lines.note(_how_to_send(platform, names))
            with contextlib.suppress(KeyboardInterrupt):
                platform.wait()
            lines.note("stopping …")


def _how_to_send(platform: LocalPlatform, names: list[str]) -> RenderableType:
    from rich.panel import Panel

    lines = [f"Worker log: {platform.worker_log_path}", "", "In another terminal, in this folder:"]
    if "smollm2-135m-instruct" in names:
        lines.append(
            "  inferstream send text-generation smollm2-135m-instruct 'What is the capital of France?'"
        )
    lines += [f"  inferstream send asr {name} RECORDING.flac" for name in names if name.startswith("whisper")]
    if "smollm2-135m-instruct" in names:
        lines.append(
            f"  curl -s {platform.http_url}/inference/infer -d '{_HTTP_EXAMPLE}'",
        )
    lines += ["  inferstream models list", "  inferstream doctor", "", "Ctrl-C here stops everything."]
    return Panel("\n".join(lines), title="inferstream is up", title_align="left", expand=False)


@contextlib.contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM unwind the main thread as Ctrl-C does, so that everything started is stopped."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
