"""The model registry of the local stack: an MLflow server on SQLite that also serves the artifacts."""

from __future__ import annotations

import importlib.metadata
import os
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from deploy.local.part import Part
from deploy.local.ports import HOST, http_get


class MlflowServer(Part):
    """A registry whose database and artifacts stay under the stack's root."""

    name = "mlflow"
    start_timeout_s = 240.0

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def settings(self) -> dict[str, Any]:
        return {"mlflow": {"tracking_uri": self.url}}

    def prepare(self) -> None:
        """Migrate the database to this MLflow's schema: processes that create one at the same time crash.

        A copy is migrated and then replaces the database: an interrupted migration could not be repeated.
        """
        marker = self.directory / f"schema-of-mlflow-{importlib.metadata.version('mlflow')}"
        if marker.exists():
            return
        upgraded = self.directory / "upgraded.db"
        for leftover in self.directory.glob(f"{upgraded.name}*"):  # of an upgrade that was cut short
            leftover.unlink()
        if self._file.exists():
            with closing(sqlite3.connect(self._file)) as present, closing(sqlite3.connect(upgraded)) as copy:
                present.backup(copy)
        self.run([sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{upgraded}"])
        upgraded.replace(self._file)
        marker.touch()

    def command(self) -> Sequence[str]:
        # What `mlflow server` runs in a second process, having imported all of MLflow only to check its arguments.
        app = ("-m", "uvicorn", "mlflow.server.fastapi_app:app")
        return [sys.executable, *app, "--host", HOST, "--port", str(self.ports["main"])]

    def environment(self) -> dict[str, str]:
        database = f"sqlite:///{self._file}"
        # `mlflow server` passes its options on in these.
        options = {
            "_MLFLOW_SERVER_FILE_STORE": database,
            "_MLFLOW_SERVER_REGISTRY_STORE": database,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self.directory / "artifacts"),
        }
        quiet = {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_AGENT_HINT": "true",
            "PYTHONWARNINGS": "ignore",
            "PYTHONUNBUFFERED": "1",
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        return inherited | quiet | options

    def is_healthy(self) -> bool:
        return http_get(self.ports["main"], "/health").is_success

    @property
    def _file(self) -> Path:
        return self.directory / "mlflow.db"
