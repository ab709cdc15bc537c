"""The model registry of the local stack: an MLflow server on SQLite that also serves the artifacts."""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.local.http_probe import http_get
from deploy.local.part import Part
from deploy.local.ports import HOST


class MlflowServer(Part):
    """A registry whose database and artifacts stay under the stack's root."""

    name = "mlflow"
    start_timeout_s = 240.0

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def first_command(self) -> Sequence[str] | None:
        """Bring the database to this MLflow's schema: processes that create it side by side crash."""
        if self._schema_marker.exists():
            return None
        return [sys.executable, "-m", "mlflow", "db", "upgrade", self._database]

    def command(self) -> Sequence[str]:
        self._schema_marker.touch()  # the upgrade, if one was needed, has ended well by now
        return [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--host", HOST, "--port", str(self.ports["main"])),
            *("--backend-store-uri", self._database),
            *("--serve-artifacts", "--artifacts-destination", str(self.directory / "artifacts")),
        ]

    def environment(self) -> dict[str, str]:
        quiet = {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_AGENT_HINT": "true",
            "PYTHONWARNINGS": "ignore",
            "PYTHONUNBUFFERED": "1",
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        return inherited | quiet

    def is_healthy(self) -> bool:
        status, _ = http_get(self.ports["main"], "/health")
        return status == http.client.OK

    @property
    def _database(self) -> str:
        return f"sqlite:///{self.directory / 'mlflow.db'}"

    @property
    def _schema_marker(self) -> Path:
        return self.directory / f"schema-of-mlflow-{importlib.metadata.version('mlflow')}"
