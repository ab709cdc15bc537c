"""The contract of a task in the transformers engine: load a model from its folder, run a batch on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from engines.base import NO_HURRY
from engines.transformers.batch_budget import BatchBudget
from handlers.errors import InferenceError, InvalidOption

if TYPE_CHECKING:
    from concurrent.futures import Future

    from transformers import PreTrainedModel

    from engines.base import Emit, Urgency
    from engines.settings import TransformersSettings
    from engines.transformers.loading import ModelFolder

Outcome = dict[str, Any] | InferenceError

RUNNERS = {
    "text-generation": "engines.transformers.text_generation:TextGenerationRunner",
    "asr": "engines.transformers.asr:SpeechRecognitionRunner",
    "audio-classification": "engines.transformers.audio_classification:AudioClassificationRunner",
    "video-analysis": "engines.transformers.video_analysis:VideoAnalysisRunner",
    "vlm": "engines.transformers.asking:AskingRunner",
    "ocr": "engines.transformers.ocr:OcrRunner",
    "document-analysis": "engines.transformers.document_analysis:DocumentAnalysisRunner",
}
"""The runner of each task; a new task is one line here and one file."""


class TaskRunner(ABC):
    """One loaded model, ready for one task.

    Calls of `run` never overlap. The runner owns the model; the engine frees its memory by dropping it.
    """

    kinds: ClassVar[tuple[str, ...]] = ()
    """transformers' Auto classes of models that run the task, those that suit it best first."""

    purpose: ClassVar[str] = ""
    """What models of these kinds are called where another is refused."""

    def __init__(self, name: str, model: PreTrainedModel) -> None:
        """`model` holds every weight of the runner; one that runs several models gives a `torch.nn.ModuleDict`."""
        self.name = name
        self.model = model
        self.budget = BatchBudget(name)

    @property
    def weights(self) -> Hashable:
        """Equal for runners whose model is the same one in memory."""
        return id(self.model)

    @classmethod
    def kind_of(cls, folder: ModelFolder) -> str | None:
        """Return by which of `kinds` the model in `folder` is loaded, None where it is no model but a folder of some.

        No weights are read: what is refused here needs no room in memory.

        Raises:
            ModelLoadFailed: permanent; by none of them, or not under the settings.
        """
        return folder.auto_class(*cls.kinds, purpose=cls.purpose)

    @classmethod
    @abstractmethod
    def load(cls, folder: ModelFolder) -> TaskRunner:
        """Return the runner of the model in `folder`.

        Raises:
            ModelLoadFailed: permanent; the model is of another kind, or incomplete.
        """

    def configure(self, settings: TransformersSettings) -> None:
        """Take what the settings say about running; called once, before the first run."""

    def close(self) -> None:
        """End what runs in the background; called once, before the model's memory is freed."""

    def submit(
        self,
        inputs: dict[str, Any],
        options: dict[str, Any],
        emit: Emit | None = None,
        urgency: Urgency = NO_HURRY,
    ) -> Future[dict[str, Any]]:
        """Start one input and return at once, for tasks that take requests as they come; from any thread.

        Raises:
            InferenceError: permanent; this input or these options cannot be run.
        """
        raise NotImplementedError(f"{type(self).__name__} runs in batches")

    def last_sign(self) -> float | None:
        """Return when a request that was started last got further, by time.monotonic; None where that is not known."""
        return None

    @abstractmethod
    def run(self, inputs: Sequence[dict[str, Any]], options: Sequence[dict[str, Any]]) -> list[Outcome]:
        """Return one raw result per input, in order, or the error of an input that cannot be run.

        What it raises costs the whole batch; the engine then runs its halves. A runner that cuts inputs into
        pieces and runs several together, such as windows, gives them a `BatchBudget` of their own: a long input
        must not fail where it fits piece by piece.
        """


def refuse_options(options: Mapping[str, Any], *, takes: Collection[str], because: str) -> None:
    """Refuse what this kind of model would ignore; an option that is false asks for nothing.

    Raises:
        InvalidOption: permanent; names the options, says `because` and what the model takes.
    """
    useless = [name for name, value in options.items() if name not in takes and value is not False]
    if useless:
        named = ", ".join(f"options.{name}" for name in useless)
        raise InvalidOption(
            f"{named}: {because}; leave it out (this model takes {', '.join(sorted(takes)) or 'no options'})"
        )


def runner_of(task: str) -> type[TaskRunner]:
    """Return the class that runs `task`, which must be in `RUNNERS`."""
    module, _, name = RUNNERS[task].partition(":")
    found: type[TaskRunner] = getattr(import_module(module), name)
    return found
