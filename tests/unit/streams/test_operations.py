"""docs/operations.md names log events and metrics that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def sources() -> str:
    return "".join(path.read_text() for name in ("streams", "engines") for path in (ROOT / name).rglob("*.py"))


def test_every_log_event_that_is_documented_is_written_somewhere() -> None:
    table = (ROOT / "docs" / "operations.md").read_text().partition("## /readyz")[0]
    events = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    text = sources()
    assert len(events) >= 10
    assert [event for event in events if f'"{event}"' not in text] == []


def test_the_metrics_that_are_documented_are_made_somewhere() -> None:
    table = (ROOT / "docs" / "operations.md").read_text().partition("## /metrics")[2]
    names = re.findall(r"`(?:inferstream|\.\.\.)?_(\w+?)(?:_total)?(?:\{.*?\})?`", table)
    text = sources()
    assert len(names) >= 15
    for name in names:
        last = name.removeprefix("inferences_by_").removeprefix("by_")
        assert name in text or last in text, name
