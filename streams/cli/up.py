"""`inferstream up`: everything on this machine, in the foreground."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.command_line import HTTP_EXAMPLE, command
from streams.cli.global_options import GlobalOptions

if TYPE_CHECKING:
    from streams.local.platform import LocalPlatform

_DIRECTORY = Path(".local")

_STARTED_HERE = ("kafka.bootstrap_servers", "s3.endpoint_url", "s3.access_key", "s3.secret_key", "mlflow.tracking_uri")

MODELS = {
    "smollm2-135m-instruct": "text-generation {} 'What is the capital of France?'",
    "whisper-base": "asr {} RECORDING.flac",
    "whisper-tiny.en": "asr {} RECORDING.flac",
    "pp-ocrv5-mobile": "ocr {} PAGE.png",
}
"""An example for `send` for each model in the catalogue, which takes long to import."""

DEFAULT_MODELS = list(MODELS)[:2]


@command(
    "inferstream up",
    "inferstream up --model whisper-tiny.en --directory ./try",
    "inferstream up --no-models",
    "inferstream up --kafka-home ~/kafka_2.13-4.3.1 --brokers 3",
    "inferstream up --set worker.batch_max_items=8 --config mine.yaml",
)
def up(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Option(help="Where data and logs live.")] = _DIRECTORY,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help=f"Model to register, repeatable: {', '.join(MODELS)}. Default: {', '.join(DEFAULT_MODELS)}.",
        ),
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

    Data stays in the folder for the next start; only the embedded broker forgets its topics. Data of one broker and of
    three brokers are kept apart. While it runs, every other command in this folder finds it. The worker listens on
    port 8080 where that is free. --config and --set are settings of the worker; the addresses of the servers that are
    started here cannot be set.
    """
    if model and no_models:
        raise typer.BadParameter("give --model or --no-models, not both", param_hint="--no-models")
    overrides = _overrides(ctx.ensure_object(GlobalOptions))
    if brokers is not None and kafka_home is None:
        raise typer.BadParameter(
            "the embedded broker is always one; name a release of Apache Kafka with --kafka-home DIR",
            param_hint="--brokers",
        )
    if brokers not in (None, 1, 3):
        raise typer.BadParameter(f"{brokers} is neither 1 nor 3", param_hint="--brokers")
    from rich.console import Console

    from deploy.local import KafkaRelease, LocalStack
    from deploy.models import CATALOGUE, prepare, progress_bars
    from handlers.decoding.children.memory import trim
    from streams.local.platform import LocalModel, LocalPlatform
    from streams.local.status import StatusLines

    names = [] if no_models else model or DEFAULT_MODELS
    if unknown := [name for name in names if name not in CATALOGUE]:
        raise typer.BadParameter(
            f"there is no recipe for {', '.join(unknown)}; there are {', '.join(CATALOGUE)}. Start without it, then "
            "register a model of your own: inferstream models register",
            param_hint="--model",
        )
    # Before models are fetched, which may take minutes.
    kafka = None if kafka_home is None else KafkaRelease.find(kafka_home)
    # Its warnings, such as that a new topic has no leader yet, would disturb the lines of the parts.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    console = Console()
    overrides["worker"].setdefault("warm", names)  # else the first request waits for torch to be imported

    def models() -> list[LocalModel]:
        lines.pause()
        with progress_bars(console) as report:
            made = [LocalModel.prepared(name, prepare(CATALOGUE[name], progress=report)) for name in names]
        lines.resume()
        trim()  # this process lives on, and needs nothing of what the conversions took
        return made

    # As Ctrl-C, so that everything that was started is stopped.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    ctx.call_on_close(lambda: signal.signal(signal.SIGTERM, before))
    lines = StatusLines(console)
    stack = LocalStack(directory, kafka=kafka, brokers=brokers or 1, on_status=lines.show)
    with lines, LocalPlatform(stack, models=models, overrides=overrides) as platform:
        lines.pause()
        # Not wrapped, so that each command can be copied as a whole.
        console.print(_how_to_send(platform, names, directory), soft_wrap=True, highlight=False)
        with contextlib.suppress(KeyboardInterrupt):
            platform.wait()
        lines.note("stopping; the worker first finishes what it has begun, within worker.drain_timeout_s …")
        lines.resume()


def _overrides(options: GlobalOptions) -> dict[str, dict[str, Any]]:
    """Return the settings of this command line, with a port where they name none; an address of a server that is
    started here raises ConfigurationError."""
    from deploy.local.ports import is_free
    from engines.config.settings_tree import leaves
    from engines.configuration import ConfigurationError, given_explicitly
    from streams.settings import DEFAULT_HTTP_PORT, Settings

    given = given_explicitly(Settings, options.config_file, options.overrides)
    variables = {key: leaf.env_name for key, leaf in leaves(Settings).items()}
    problems = [
        f"{key} cannot be set for inferstream up, which starts that server itself; leave it out, or run the parts that "
        "you have and `inferstream worker`"
        for key in _STARTED_HERE
        if key.partition(".")[2] in given.get(key.partition(".")[0], {}) or variables[key] in os.environ
    ]
    if problems:
        raise ConfigurationError(problems)
    http = given.setdefault("http", {})
    port = str(http.setdefault("port", DEFAULT_HTTP_PORT if is_free(DEFAULT_HTTP_PORT) else 0))
    if port.isdecimal() and http.keys().isdisjoint({"enabled", "host"}) and not is_free(int(port)):
        raise ConfigurationError([f"http.port={port} is in use or reserved; set a free port, or 0 for any"])
    given.setdefault("worker", {})
    return given


def _how_to_send(platform: LocalPlatform, names: list[str], directory: Path) -> str:
    from streams.settings import DEFAULT_HTTP_PORT

    # Commands find the settings in the default folder by themselves.
    is_found = directory == _DIRECTORY and not Path("inferstream.yaml").exists()
    inferstream = "inferstream" if is_found else f"inferstream --config {shlex.quote(str(platform.config_path))}"
    lines = ["[bold green]inferstream is up[/bold green]", f"Worker log: {platform.worker_log_path}"]
    if url := platform.http_url:
        is_usual = url.endswith(f":{DEFAULT_HTTP_PORT}")
        lines.append(f"HTTP: {url}" + ("" if is_usual else f", as port {DEFAULT_HTTP_PORT} is taken or another is set"))
    lines += ["", "In another terminal, in this folder:"]
    lines += [f"  {inferstream} send {MODELS[name].format(name)}" for name in names]
    lines.append(f"  {inferstream} upload FILE    prints its s3:// address for requests")
    if url and "smollm2-135m-instruct" in names:
        lines.append(f"  curl -s {url}/inference/infer -d {HTTP_EXAMPLE}")
    lines += [f"  {inferstream} models list", f"  {inferstream} doctor", "", "Ctrl-C here stops everything."]
    return "\n".join(lines)
