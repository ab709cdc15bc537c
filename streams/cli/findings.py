"""What a check says: one line, how bad it is, and what to do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis; `cure` says what to do where `status` is not ok."""

    name: str
    status: Status
    detail: str
    cure: str = ""


def only_warn(finding: Finding, reason: str) -> Finding:
    """Return an error as a warning that adds why it is no more than that; anything else as it is."""
    if finding.status != "error":
        return finding
    return replace(finding, status="warning", detail=f"{finding.detail} ({reason})")
