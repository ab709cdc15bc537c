"""TrigramEngine: compares texts with languages as the frequencies of their trigrams; pure Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from engines import BaseEngine
from handlers.errors import ModelLoadFailed

from .profiles import FILE, Profiles, trigrams


class TrigramSettings(BaseModel):
    """What can be set for the engine: `engines: {trigrams: {...}}`."""

    smoothing: float = Field(
        default=0.5, gt=0, le=100, description="Count of a trigram that a language's text does not hold."
    )


class TrigramEngine(BaseEngine):
    """Runs language-identification. A model is a folder with `profiles.json`; `config` is a TrigramSettings."""

    supported_tasks = frozenset({"language-identification"})
    settings_class = TrigramSettings

    def load_model(self, name: str, **kw: Any) -> Profiles:
        """Return the profiles in folder `path`, which the registry brought here.

        Raises:
            ModelLoadFailed: permanent; the folder holds no profiles.
        """
        path: Path = kw["path"]
        try:
            return Profiles.load(path)
        except (OSError, ValueError) as error:
            raise ModelLoadFailed(f"model {name} has no readable {FILE}: {error}") from error

    def infer(self, model: Profiles, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return probabilities {language: share}, likeliest first, and how many trigrams were seen."""
        text = inputs["text"]
        shares = model.probabilities(text, unseen=self.config.smoothing)
        return {"probabilities": shares, "trigrams": sum(1 for _ in trigrams(text))}

    def unload_model(self, model: Profiles) -> bool:
        """Forget the profiles; Python frees them with the last reference."""
        return True
