"""Stores the last resolution of each model name on disk, so that a worker can start while MLflow is away."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from urllib.parse import quote

from engines.models.resolved_model import ModelReference, ResolvedModel
from handlers.logger import get_logger

log = get_logger(__name__)

_FIELDS = ("name", "version", "source", "tags")


class LastGoodResolutions:
    """One small file per name, replaced atomically; any number of threads and processes may share the folder.

    Resolutions of another server do not count. A disk error is logged and never fails a request.
    """

    def __init__(self, folder: Path, tracking_uri: str) -> None:
        self._folder = folder
        self._tracking_uri = tracking_uri

    def load(self, reference: ModelReference) -> ResolvedModel | None:
        """Return the last resolution of `reference` on this server, None where there is none."""
        try:
            saved = json.loads(self._file(reference).read_bytes())
            if saved["tracking_uri"] != self._tracking_uri:
                return None
            return ResolvedModel(*(saved[field] for field in _FIELDS))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            log.warning("last_resolution_unreadable", file=str(self._file(reference)), exc_info=True)
            return None

    def save(self, reference: ModelReference, model: ResolvedModel) -> None:
        """Store that `reference` stands for `model`."""
        saved = {"tracking_uri": self._tracking_uri} | {field: getattr(model, field) for field in _FIELDS}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._folder, suffix=".tmp", delete=False) as file:
                json.dump(saved, file, indent=1)
            os.replace(file.name, self._file(reference))  # noqa: PTH105 - replaces, as Path.rename may not
        except OSError:
            log.warning("last_resolution_not_saved", model=str(reference), exc_info=True)

    def forget(self, reference: ModelReference) -> None:
        """Delete the resolution of `reference`: the server has no such model."""
        try:
            self._file(reference).unlink(missing_ok=True)
        except OSError:
            log.warning("last_resolution_not_forgotten", model=str(reference), exc_info=True)

    def _file(self, reference: ModelReference) -> Path:
        return self._folder / f"{quote(str(reference), safe='@')}.json"
