"""Tasks that ask a vision-language model, which they share with each other where they are asked of one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Self

from engines.base import NO_HURRY, Emit, Urgency
from engines.settings import TransformersSettings
from engines.transformers.loading import ModelFolder
from engines.transformers.runner import Outcome, TaskRunner
from engines.transformers.shared_vlms import SharedModels
from engines.transformers.vlm import VisionLanguageRunner


class AskingRunner(TaskRunner):
    """Asks conversations of a vision-language model, as task vlm does; a subclass makes them of its inputs.

    The texts of all tasks that ask one model grow in one running batch.
    """

    kinds = VisionLanguageRunner.kinds

    def __init__(self, asked: VisionLanguageRunner, let_go: Callable[[], None] = lambda: None) -> None:
        """`let_go` says that the model is not asked any more by this task."""
        super().__init__(asked.name, asked.model)
        self.asked = asked
        self._let_go = let_go

    @classmethod
    def load(cls, folder: ModelFolder, shared: SharedModels) -> Self:
        """Return the runner over the image-text-to-text model in `folder`, which other tasks may ask already."""
        asked, let_go = shared.take(folder.path, lambda: VisionLanguageRunner.load(folder, shared))
        try:
            return cls(asked, let_go)
        except BaseException:
            let_go()
            raise

    def configure(self, settings: TransformersSettings) -> None:
        """Let the model run by these settings."""
        self.asked.configure(settings)

    def close(self) -> None:
        """Ask no more; where no other task does, the model's loops end."""
        self._let_go()

    def last_sign(self) -> float | None:
        """Return when the model that is asked last got further, for whatever task."""
        return self.asked.last_sign()

    def submit(
        self,
        inputs: dict[str, Any],
        options: dict[str, Any],
        emit: Emit | None = None,
        urgency: Urgency = NO_HURRY,
    ) -> Future[dict[str, Any]]:
        """Start one conversation, as `VisionLanguageRunner.submit`."""
        return self.asked.submit(inputs, options, emit, urgency)

    def run(self, inputs: Sequence[dict[str, Any]], options: Sequence[dict[str, Any]]) -> list[Outcome]:
        """Return what `submit` answers for each input."""
        return self.asked.run(inputs, options)
