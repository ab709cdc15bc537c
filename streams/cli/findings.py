"""The result of a check: one line, its severity, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    @classmethod
    def of_error(cls, name: str, message: object) -> Finding:
        """Return the finding of an error message, which ends with "; " and the cure."""
        detail, _, cure = str(message).partition("; ")
        return cls(name, "error", detail, cure)


_SET_UP = {"broker": "kafka.bootstrap_servers", "mlflow": "mlflow.tracking_uri"}
"""What always runs where anything does, and the setting that names it."""


def if_nothing_runs(findings: Sequence[Finding], origins: Mapping[str, str]) -> list[Finding] | None:
    """Return the findings where nothing runs and no setting says that it should, else None: so nothing is wrong."""
    away = {one.name for one in findings if one.name in _SET_UP and one.status == "error"}
    if away != set(_SET_UP) or any(origins[key] != "default" for key in _SET_UP.values()):
        return None
    return [only_warn(one, "no setting names one") if one.name in _SET_UP else one for one in findings]


def only_warn(finding: Finding, reason: str) -> Finding:
    """Return an error as a warning that adds why it is no more than that; anything else as it is."""
    if finding.status != "error":
        return finding
    return replace(finding, status="warning", detail=f"{finding.detail} ({reason})")
