"""`inferstream doctor`: everything a worker needs, checked side by side, with what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from engines.configuration import ConfigurationError
from engines.models.model_manager import ModelManager
from engines.registry import EngineRegistry
from engines.run.health import HealthProbes
from handlers import model_registry
from streams.cli import checks, model_checks
from streams.cli.checks import Finding, Status
from streams.cli.command_line import AsJson, command, load_settings, print_json
from streams.cli.tables import standard_output
from streams.plugins import import_plugins, tasks_of
from streams.settings import Settings

LONGEST_S = 30.0
"""Time limit of all checks together, in seconds."""

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red")}
_SET_UP = {"broker": "kafka.bootstrap_servers", "mlflow": "mlflow.tracking_uri"}
"""What always runs where anything does, and the setting that names it."""


@command(
    "inferstream doctor",
    "inferstream doctor --config production.yaml --bucket recordings",
    "inferstream doctor --json",
)
def doctor(
    ctx: typer.Context,
    bucket: Annotated[str | None, typer.Option(help="A bucket that the worker must be able to read.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check broker, topics, S3, MLflow, models, engines and disk, within 30 seconds.

    Exit status: 0 all that is needed is there (a ! may remain); 1 something is not there or wrong; 2 settings not
    usable. Where nothing runs and no setting names a broker or MLflow, as before and after `inferstream up`, nothing is
    wrong: that is said, and is 0; --json says "running": false.
    """
    loaded = load_settings(ctx)
    with Console(stderr=True, quiet=as_json).status("checking"):
        findings = if_ollama_is_unset(examine(loaded.settings, bucket=bucket), loaded.origins)
    idle = if_nothing_runs(findings, loaded.origins)
    is_running, findings = idle is None, idle or findings
    origin = loaded.config_file or "no file; environment and defaults"
    findings.insert(0, Finding("settings", "ok", str(origin)))
    is_well = all(finding.status != "error" for finding in findings)
    if as_json:
        print_json({"ok": is_well, "running": is_running, "checks": [asdict(one) for one in findings]})
    else:
        _print(findings, is_running=is_running)
    raise typer.Exit(0 if is_well else 1)


def examine(settings: Settings, *, bucket: str | None = None) -> list[Finding]:
    """Return all findings, in a fixed order; blocks for at most `LONGEST_S`.

    An engine that is not usable is an error where a registered model names it, else a warning.
    """
    findings = _plugins(settings)
    known = model_registry.tasks()
    tasks = [task for task in settings.worker.tasks if task in known] or known
    manager = ModelManager(settings.mlflow, settings.cache)
    named: set[str] = set()
    asked: dict[str, Callable[[], list[Finding]]] = {
        "broker": partial(checks.check_broker, settings, tasks),
        "s3": partial(checks.check_s3, settings, bucket),
        "mlflow": partial(model_checks.check_mlflow, settings),
        "models": partial(model_checks.check_models, settings, manager, named),
        "transformers": partial(model_checks.check_transformers, settings, timeout_s=LONGEST_S - 0.5),
        "ollama": partial(model_checks.check_ollama, settings),
        "disk": partial(checks.check_disk, settings.cache.directory, manager.files.health),
    }
    answers = HealthProbes(LONGEST_S).probe({name: partial(_answer, check) for name, check in asked.items()})
    found = {name: _findings(name, answer, settings) for name, answer in answers.items()}
    if any(finding.status == "error" for finding in found["mlflow"]):
        found["models"] = []  # it would report the same again
    for engine in {"transformers", "ollama"} - named:
        found[engine] = [only_warn(finding, "no registered model needs it") for finding in found[engine]]
    return [*findings, *(finding for name in asked for finding in found[name])]


def _plugins(settings: Settings) -> list[Finding]:
    """Import the plugins, and check the settings of custom engines and the tasks to consume."""
    findings = []
    for plugin in settings.worker.plugins:
        findings += _refused("plugins", partial(import_plugins, [plugin])) or [
            Finding("plugins", "ok", f"{plugin} is imported")
        ]
    findings += _refused("engines", EngineRegistry(settings).check_settings)
    if all(finding.status == "ok" for finding in findings):
        findings += _refused("tasks", partial(tasks_of, settings.worker))
    return findings


def _refused(name: str, check: Callable[[], object]) -> list[Finding]:
    """Return the finding of `check` about the settings, nothing where they are valid."""
    try:
        check()
    except ConfigurationError as error:
        return [Finding.of_error(name, problem) for problem in error.problems]
    return []


def _answer(check: Callable[[], list[Finding]]) -> dict[str, Any]:
    return {"status": "ok", "findings": check()}


def _findings(name: str, answer: Mapping[str, Any], settings: Settings) -> list[Finding]:
    """Return a check's findings, or one that says why it has none."""
    if "findings" in answer:
        return cast(list[Finding], answer["findings"])
    where = {
        "broker": f"kafka.bootstrap_servers={settings.kafka.bootstrap_servers}",
        "s3": f"s3.endpoint_url={settings.s3.endpoint_url or 'AWS'}",
        "mlflow": "mlflow.tracking_uri",
        "models": "inferstream models list",
        "transformers": "python -c 'import torch, transformers'",
        "ollama": f"ollama.api_base={settings.ollama.api_base}",
        "disk": f"cache.directory={settings.cache.directory}",
    }
    # Importing these libraries takes longer than that on a busy machine, which is not an error.
    status: Status = "warning" if name in ("models", "transformers") else "error"
    return [Finding(name, status, str(answer["error"]), f"look at {where[name]}")]


def if_nothing_runs(findings: Sequence[Finding], origins: Mapping[str, str]) -> list[Finding] | None:
    """Return the findings where nothing runs and no setting says that it should, else None: so nothing is wrong."""
    away = {one.name for one in findings if one.name in _SET_UP and one.status == "error"}
    if away != set(_SET_UP) or any(origins[key] != "default" for key in _SET_UP.values()):
        return None
    return [only_warn(one, "no setting names one") if one.name in _SET_UP else one for one in findings]


def if_ollama_is_unset(findings: Sequence[Finding], origins: Mapping[str, str]) -> list[Finding]:
    """Return the findings; where no setting says where Ollama is, its absence is a warning, as after the demo, which
    leaves a model for it in the registry."""
    if origins["ollama.api_base"] != "default":
        return list(findings)
    reason = "models that are registered need it; ollama.api_base is not set"
    return [only_warn(one, reason) if one.name == "ollama" else one for one in findings]


def only_warn(finding: Finding, reason: str) -> Finding:
    """Return an error as a warning that adds why it is no more than that; anything else as it is."""
    if finding.status != "error":
        return finding
    return replace(finding, status="warning", detail=f"{finding.detail} ({reason})")


def _print(findings: Sequence[Finding], *, is_running: bool) -> None:
    lines = Table.grid(Column(no_wrap=True), Column(no_wrap=True), Column(overflow="fold"), padding=(0, 1))
    for finding in findings:
        mark, colour = _MARKS[finding.status]
        lines.add_row(Text(mark, style=f"bold {colour}"), Text(finding.name, style="bold"), Text(finding.detail))
        if finding.cure:
            lines.add_row("", "", Text(f"→ {finding.cure}", style=colour))
    console = standard_output()
    console.print(lines)
    errors = sum(finding.status == "error" for finding in findings)
    warnings = sum(finding.status == "warning" for finding in findings)
    more = f", {warnings} to look at" if warnings else ""
    if errors:
        console.print(f"[bold red]{errors} to fix[/bold red]{more}")
    elif is_running:
        console.print(f"[bold green]ready[/bold green]{more}")
    else:
        console.print("[bold yellow]nothing runs here[/bold yellow]; `inferstream up` starts everything")
