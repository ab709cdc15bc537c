"""`inferstream send`: one request, its result."""

from __future__ import annotations

import base64
import json
import mimetypes
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams import interrupts
from streams.cli.command_line import command, load_settings, note, pairs
from streams.cli.upload import upload_with_bar

if TYPE_CHECKING:
    from streams.messages import Request, Result
    from streams.settings import Settings

_ROOM_FOR_THE_REST = 4096
"""Bytes of a message beside its media."""

MAIN_INPUT = {
    "text-generation": "inputs",
    "asr": "audio",
    "audio-classification": "audio",
    "ocr": "image",
    "vlm": "image",
    "video-analysis": "video",
    "document-analysis": "document",
}
"""The field of `data` that the argument INPUT fills, by task."""


def _above_zero(seconds: float) -> float:
    if not 0 < seconds < float("inf"):
        raise typer.BadParameter(f"{seconds:g} is not a number of seconds above 0, as in 30")
    return seconds


@command(
    "inferstream send text-generation smollm2-135m-instruct 'Name a colour.'",
    "git log -1 | inferstream send text-generation smollm2-135m-instruct -",
    "inferstream send asr whisper-base call.flac --option timestamps=word",
    "inferstream send asr whisper-base recording.wav --json",
    "inferstream send ocr pp-ocrv5-mobile page.png",
    "inferstream send document-analysis pp-ocrv5-mobile report.pdf --json",
    "inferstream send audio-classification my-tagger noise.wav --option top_k=3",
    "inferstream send video-analysis my-classifier clip.mp4 --option num_frames=8",
    'inferstream send vlm llava image.png --data \'{"prompt": "How many?"}\'',
)
def send(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(help="The task, such as text-generation or asr.")],
    model: Annotated[str, typer.Argument(help="Registered model: name, name@alias or name/version.")],
    main_input: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT",
            help="The text (- reads standard input); of tasks about media, a file or its s3:// or https:// address.",
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="Engine that runs it. Default: the one that the model's tags name.")] = "",
    data: Annotated[str | None, typer.Option(help="Further inputs of the task, as a JSON object.")] = None,
    option: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="One option; repeatable.")] = None,
    key: Annotated[str | None, typer.Option(help="Kafka key; results carry it too.")] = None,
    identity: Annotated[str | None, typer.Option("--id", help="Request id; default: a new one.")] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Longest wait for the result, in seconds.", callback=_above_zero)
    ] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
) -> None:
    """Send one request, wait for its result and print it; exit with 1 where it failed."""
    from streams.messages import Request

    settings = load_settings(ctx).settings
    inputs = _object(data) if data else {}
    if main_input is not None:
        field = MAIN_INPUT.get(task, "inputs")
        if field in inputs:
            raise typer.BadParameter(f"INPUT and --data both give {field}; leave one out", param_hint="INPUT")
        if field != "inputs":
            inputs[field] = _media_address(main_input, settings)
        else:
            inputs[field] = sys.stdin.read() if main_input == "-" else main_input
            if _is_file(main_input):
                note(f"the text {main_input!r} is sent, not that file; its content: send … - < FILE")
    options = {name: _value(text) for name, text in pairs(option, "--option", "max_new_tokens=8")}
    request = Request(task=task, engine=engine, model_name=model, data=inputs, options=options, id=identity or "")
    result = interrupts.run(_infer(settings, request, key, timeout_s))
    _print(result, as_json=as_json)
    if not result.success and main_input is not None and task not in MAIN_INPUT:
        note(f"INPUT was sent as data.inputs; give other inputs of {task} as --data '{{...}}'")
    raise typer.Exit(0 if result.success else 1)


def _media_address(value: str, settings: Settings) -> str:
    """Return an address the worker can fetch: the one given, or that of a local file.

    The file's bytes become a data: URI where they fit into a message; else the file is uploaded.
    """
    if value.startswith(("s3://", "https://", "data:")):
        return value
    path = Path(value).expanduser()
    if not _is_file(path):
        raise typer.BadParameter(
            f"{value!r} is neither a file here nor an s3://, https:// or data: address", param_hint="INPUT"
        )
    if path.stat().st_size * 4 // 3 > settings.kafka.max_message_bytes - _ROOM_FOR_THE_REST:
        if settings.s3.uploads is not None:
            return upload_with_bar(path, settings.s3)
        raise typer.BadParameter(
            f"{value} is too large for a message (kafka.max_message_bytes={settings.kafka.max_message_bytes}); set "
            "s3.uploads to a place to put it, such as s3://media/uploads, or send its s3:// address",
            param_hint="INPUT",
        )
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _is_file(path: str | Path) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # such as a name that is too long
        return False


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.startswith(("[", "{", '"')):
            raise typer.BadParameter(f"{text!r} is not JSON: {error}", param_hint="--option") from None
        return text


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--data") from None
    if not isinstance(value, dict):
        raise typer.BadParameter('must be a JSON object, such as {"prompt": "..."}', param_hint="--data")
    return value


async def _infer(settings: Settings, request: Request, key: str | None, timeout_s: float) -> Result:
    from rich.console import Console

    from streams.client import InferenceClient
    from streams.kafka.topic_admin import TopicsNotReady, check_topics

    problems = await check_topics(settings.kafka, [request.task])
    if problems and request.task not in MAIN_INPUT:
        near = get_close_matches(request.task, MAIN_INPUT, 1)
        raise typer.BadParameter(
            f"{request.task!r} has no topics here{f'; did you mean {near[0]}?' if near else ''} (known: "
            f"{', '.join(sorted(MAIN_INPUT))}; for a task of your own, name its module in worker.plugins and run "
            "inferstream topics create)",
            param_hint="TASK",
        )
    if problems:
        raise TopicsNotReady(problems)
    async with InferenceClient(settings.kafka, tasks=[request.task]) as client:
        with Console(stderr=True).status(f"waiting for a worker to answer {request.task} by {request.model_name} …"):
            return await client.infer(request, key=key.encode() if key else None, timeout_s=timeout_s)


def _print(result: Result, *, as_json: bool) -> None:
    import msgspec
    from rich.console import Console

    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(result)).decode())
        return
    if result.error is not None:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]✗ {result.error.code}[/bold red] ", end="")
        typer.echo(result.error.message, err=True)
        Console(stderr=True, soft_wrap=True).print(f"[dim]request {result.id}[/dim]", highlight=False)
        return
    output = dict(result.result or {})
    details = output.pop("metadata", {})
    text = output.pop("generated_text", None) or output.pop("text", None)
    if text is not None:
        typer.echo(text)
    if output:
        Console(soft_wrap=True).print_json(json.dumps(output))
    shown = "  ".join(f"{name}={value}" for name, value in details.items())
    Console(stderr=True, soft_wrap=True).print(
        f"[dim]{result.model_name} version {result.model_version}  {result.processing_time:.2f} s  {shown}[/dim]",
        highlight=False,
    )
