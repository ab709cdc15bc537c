"""How long code of engines and handlers may give nothing back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

DEFAULT_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long code may give nothing back, by worker.infer_timeout_s and worker.infer_timeouts."""

    default_s: float = DEFAULT_TIMEOUT_S
    own_s: Mapping[str, float] = field(default_factory=dict)
    """By the name of a model, or of a task; the model's goes first."""

    def of(self, task: str, model_name: str) -> float:
        """Return the seconds for requests of that task to that model."""
        return self.own_s.get(model_name, self.own_s.get(task, self.default_s))
