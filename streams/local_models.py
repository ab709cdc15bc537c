"""Models to register with the platform on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from deploy.models import CATALOGUE
from engines.model_registration import ModelSource


@dataclass(frozen=True, slots=True)
class LocalModel:
    """One model; the fields are those of `ModelManager.register_model_to_mlflow`."""

    name: str
    source: ModelSource
    tags: Mapping[str, str]
    folder: Path | None = None

    @classmethod
    def prepared(cls, name: str, folder: Path) -> Self:
        """Return the model `name` of the catalogue, which `prepare` put into `folder`.

        It is registered by that place, so its files, hundreds of megabytes, are neither uploaded nor downloaded.
        """
        return cls(name, "local", {**CATALOGUE[name].tags, "physical_path": str(folder)})
