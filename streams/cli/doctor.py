"""`inferstream doctor`: everything a worker needs, checked, with what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from streams.cli import AsJson, command, load_settings, print_json
from streams.cli.findings import Finding, if_nothing_runs

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red")}


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
    from streams.cli.checks import examine

    loaded = load_settings(ctx)
    if as_json:
        findings = examine(loaded.settings, bucket=bucket)
    else:
        from rich.console import Console

        with Console(stderr=True).status("checking"):
            findings = examine(loaded.settings, bucket=bucket)
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


def _print(findings: Sequence[Finding], *, is_running: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from streams.cli.tables import standard_output

    lines = Table.grid(padding=(0, 1))
    lines.add_column(no_wrap=True)
    lines.add_column(no_wrap=True)
    lines.add_column(overflow="fold")
    for finding in findings:
        mark, colour = _MARKS[finding.status]
        lines.add_row(
            Text(mark, style=f"bold {colour}"), Text(finding.name, style="bold"), Text(finding.detail)
        )
        if finding.cure:
            lines.add_row("", "", Text(f"→ {finding.cure}", style=colour))
    console = standard_output()
    console.print(lines)
    errors = sum(finding.status == "error" for finding in findings)
    warnings = sum(finding.status == "warning" for finding in findings)
    if errors:
        console.print(
            f"[bold red]{errors} to fix[/bold red]" + (f", {warnings} to look at" if warnings else "")
        )
    elif not is_running:
        console.print("[bold yellow]nothing runs here[/bold yellow]; `inferstream up` starts everything")
    else:
        console.print("[bold green]ready[/bold green]" + (f", {warnings} to look at" if warnings else ""))
