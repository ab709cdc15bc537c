"""`inferstream models`: what is registered in MLflow, and registering more."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from engines.configuration import ConfigurationError
from engines.models.model_manager import ModelManager
from engines.models.resolved_model import RegisteredModel, parse_model_name
from engines.registry import EngineRegistry
from handlers import model_registry
from streams.cli import tables
from streams.cli.command_line import AsJson, examples, load_settings, note, pairs, print_json
from streams.plugins import import_plugins

_COMMIT = re.compile("[0-9a-f]{40}")

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    help="List, show, register or delete models, or move an alias.",
    epilog=examples("inferstream models list", "inferstream models show whisper", "inferstream models register --help"),
)


@app.command("list", epilog=examples("inferstream models list", "inferstream models list --json"))
def list_models(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List every registered model; task, engine and source are those of the version its plain name takes."""
    found = _manager(ctx).registry.registered()
    if as_json:
        print_json([_described(one) for one in found])
    elif found:
        _print_table(found)
    else:
        typer.echo("no model is registered; see: inferstream models register --help", err=True)


@app.command(epilog=examples("inferstream models show whisper", "inferstream models show whisper@champion --json"))
def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="name, name@alias or name/version.")],
    as_json: AsJson = False,
) -> None:
    """Show a model: the version that NAME stands for, its tags, and what else there is of it."""
    manager = _manager(ctx)
    model = manager.resolve(name)
    whole = next(one for one in manager.registry.registered() if one.preferred.name == model.name)
    described = _described(replace(whole, preferred=model))
    if as_json:
        print_json(described)
        return
    tags = described.pop("tags")
    rows = [(key, _shown(value)) for key, value in described.items()]
    rows += [(f"tag {key}", value) for key, value in tags.items() if key not in ("task", "engine")]
    tables.show(("", ""), rows)


@app.command(epilog=examples("inferstream models delete whisper/3", "inferstream models delete whisper --yes"))
def delete(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="name/version; or name, for all its versions.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
) -> None:
    """Delete a version of a model, or the model with all its versions.

    Workers follow within mlflow.alias_poll_s; then requests that name it fail.
    """
    manager = _manager(ctx)
    reference = parse_model_name(name)
    manager.registry.check_deletable(reference)
    what = f"version {reference.version} of {reference.name}" if reference.version else f"{name} with all its versions"
    if not yes:
        typer.confirm(f"Delete {what}?", abort=True)
    manager.delete_model(name)
    typer.echo(f"deleted {what}")


@app.command(
    epilog=examples(
        "inferstream models register ocr --task ocr --source huggingface --path ./ocr",
        "inferstream models register mine --source local --path ./mine --engine mine",
        "inferstream models register llama --source ollama --path llama3.2:1b",
    )
)
def register(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What requests will carry as model_name.")],
    source: Annotated[str, typer.Option(help="huggingface, ollama or local.")],
    path: Annotated[str | None, typer.Option(help="A folder; or hf://org/name; or the name Ollama knows.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Its task, or several with commas; requests for others are refused.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="The only engine that runs it; from the source, but for local.")
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(metavar="ALIAS", help="An alias for the new version, such as champion; repeatable."),
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="One more tag; repeatable.")] = None,
) -> None:
    """Register a version of a model; the same files and tags again create nothing new."""
    tags = dict(pairs(tag, "--tag", "revision=main"))
    tags |= {key: value for key, value in (("task", task), ("engine", engine)) if value}
    manager = _manager(ctx)
    place = Path(path) if path and source == "local" else path
    model = manager.register_model_to_mlflow(model_name=name, model_source=source, model_path=place, tags=tags)
    for one in alias or []:
        manager.set_alias(model, one)
    settings = load_settings(ctx).settings
    with suppress(ConfigurationError):  # a plugin may be installed for workers alone
        import_plugins(settings.worker.plugins)
    served, engines = model_registry.tasks(), EngineRegistry(settings).names()
    if unserved := [one for one in model.tasks if one not in served]:
        note(f"nothing here serves task {', '.join(unserved)}; this installation serves {', '.join(served)}")
    if model.engine and model.engine not in engines:
        note(f"nothing here is engine {model.engine}; there is {', '.join(engines)}")
    if not model.engine:
        note("no engine is named, so each request must name one; or register with --engine")
    if model.source.startswith("hf://") and not _COMMIT.fullmatch(model.tags.get("revision", "")):
        note(
            f"the hub did not say whether it has {model.source}, and its cache here does not hold it; workers "
            "fetch it with the first request"
        )
    named = "".join(f", {name}@{one}" for one in alias or [])
    typer.echo(f"registered {model.key}{named} from {model.source}")


@app.command(epilog=examples("inferstream models alias whisper champion 3"))
def alias(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The registered model.")],
    alias: Annotated[str, typer.Argument(help="Such as champion, or blue.")],
    version: Annotated[str, typer.Argument(help="The version it stands for from now on.")],
) -> None:
    """Let NAME@ALIAS stand for a version; workers follow within mlflow.alias_poll_s."""
    manager = _manager(ctx)
    model = manager.resolve(f"{name}/{version}")
    manager.set_alias(model, alias)
    typer.echo(f"{name}@{alias} is {model.key} now")


def _manager(ctx: typer.Context) -> ModelManager:
    settings = load_settings(ctx).settings
    return ModelManager(settings.mlflow, settings.cache)


def _described(one: RegisteredModel) -> dict[str, Any]:
    model = one.preferred
    return {
        "name": model.name,
        "version": model.version,
        "versions": list(one.versions),
        "aliases": dict(one.aliases),
        "task": model.task,
        "engine": model.engine,
        "source": model.source,
        "tags": dict(model.tags),
    }


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} = {one}" for key, one in sorted(value.items())) or "-"
    return ", ".join(value) if isinstance(value, list) else value or "any"


def _print_table(found: list[RegisteredModel]) -> None:
    rows = []
    for one in found:
        model = one.preferred
        versions = ", ".join(f"[{v}]" if v == model.version else v for v in one.versions)
        aliases = _shown(dict(one.aliases))
        rows.append((model.name, versions, aliases, model.task or "any", model.engine or "any", model.source))
    tables.show(("name", "versions", "aliases", "task", "engine", "source"), rows)
    typer.echo("[n] is the version that the plain name stands for")
