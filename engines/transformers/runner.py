"""The contract of a task in the transformers engine: load a model, or share one in memory, and run batches on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Self

from engines.transformers.memory_limits import ShrinkOnOutOfMemory
from engines.transformers.process_state import loading
from handlers.errors import InferenceError, InvalidOption

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from engines.base import Early
    from engines.transformers.loading import ModelFolder
    from engines.transformers.shared_models import SharedModels

Outcome = dict[str, Any] | InferenceError

RUNNERS = {
    "text-generation": ("generation.runner:TextGenerationRunner", "generation.runner:Seq2SeqRunner"),
    "asr": ("speech.whisper:WhisperRunner", "speech.ctc:CtcRunner"),
    "audio-classification": ("classification:AudioClassificationRunner",),
    "video-analysis": ("classification:VideoClassificationRunner", "vlm:VideoDescriptionRunner"),
    "vlm": ("vlm:VlmRunner",),
    "ocr": (
        "documents.ocr:ReadingRunner",
        "documents.ocr:ImageToTextRunner",
        "documents.ocr:TranscriptionRunner",
    ),
    "document-analysis": ("documents.document_analysis:DocumentAnalysisRunner",),
}
"""The runners of each task, "module:Class" in this package: the first that takes a model runs it."""


OWN_OPTIONS = frozenset(
    (
        "max_new_tokens",
        "max_length",
        "do_sample",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "repetition_penalty",
        "stop",
    )
)
"""Options that each sequence of a batch has for itself."""


class TaskRunner(ABC):
    """One loaded model, ready for one task, as the model runners of other engines: it makes tensors of inputs, runs
    batches of them, and makes results of the outputs. Calls of `run` never overlap. The runner owns the model; the
    engine frees its memory by dropping the runner."""

    kinds: ClassVar[tuple[str, ...]] = ()
    """The Auto classes of models that it runs, the most suitable first."""

    needs: ClassVar[str]
    """A description of such models, for error messages."""

    parts: ClassVar[tuple[Callable[[ModelFolder], Any], ...]] = ()
    """The files beside the model that `__init__` takes after it."""

    def __init__(self, name: str, model: PreTrainedModel, release: Callable[[], None] = lambda: None) -> None:
        """`model` has every weight of the runner; a runner of several models passes a `torch.nn.ModuleDict`. `release`
        releases a model that is shared with other tasks."""
        self.name = name
        self.model = model
        self.budget = ShrinkOnOutOfMemory(name)
        self._release = release

    @classmethod
    def takes(cls, folder: ModelFolder) -> bool:
        """Return whether it runs the model in `folder`; reads no weights.

        Raises:
            ModelLoadFailed: permanent; it would, but the settings do not allow it.
        """
        return folder.auto_class(*cls.kinds) is not None

    @classmethod
    def load(cls, folder: ModelFolder, shared: SharedModels) -> Self:
        """Return the runner of the model in `folder`, which it takes; `shared` has models of other tasks.

        Raises:
            ModelLoadFailed: permanent; the model is of another kind, or incomplete.
        """
        make: Callable[..., Self] = cls
        model = folder.model(*cls.kinds, needs=cls.needs)
        return make(folder.name, model, *(part(folder) for part in cls.parts))

    def close(self) -> None:
        """End background work; called once, before the model's memory is freed."""
        self._release()

    def last_sign(self) -> float | None:
        """Return when a started request last made progress, by time.monotonic; None where that is not known."""
        return None

    def run(
        self,
        inputs: Sequence[dict[str, Any]],
        options: Sequence[dict[str, Any]],
        early: Early = lambda number, outcome: None,
    ) -> list[Outcome]:
        """Return one raw result per input, in order, or the error of an input that cannot be run. `early` is called
        with the number and the outcome of each as soon as it is known. An exception fails the whole batch; the engine
        then runs its halves."""
        outcomes: dict[int, Outcome] = {}

        def settle(number: int, outcome: Outcome) -> None:
            outcomes[number] = outcome
            early(number, outcome)

        prepared: dict[int, Any] = {}
        for number, (one, its) in enumerate(zip(inputs, options, strict=True)):
            try:
                prepared[number] = self.prepare(one, its)
            except InferenceError as error:
                settle(number, error)
        numbers = list(prepared)
        for place, outcome in self.answer(list(prepared.values())):
            settle(numbers[place], outcome)
        return [outcomes[number] for number in range(len(inputs))]

    @abstractmethod
    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> Any:
        """Return one input in the form that `answer` takes.

        Raises:
            InferenceError: permanent; this input or these options cannot be run.
        """

    @abstractmethod
    def answer(self, prepared: Sequence[Any]) -> Iterator[tuple[int, Outcome]]:
        """Yield the index of each of `prepared` with its raw result or error, as soon as it is known. A runner that
        splits inputs into pieces, such as windows, and runs several together, needs a `ShrinkOnOutOfMemory` for them:
        a long input must not fail where it fits piece by piece."""


def refuse_options(options: Mapping[str, Any], *, takes: Collection[str], because: str) -> None:
    """Refuse options that this kind of model would ignore; an option that is false asks for nothing.

    Raises:
        InvalidOption: permanent; names the options, the reason `because` and what the model takes.
    """
    useless = [name for name, value in options.items() if name not in takes and value is not False]
    if useless:
        named = ", ".join(f"options.{name}" for name in useless)
        raise InvalidOption(
            f"{named}: {because}; leave it out (this model takes {', '.join(sorted(takes)) or 'no options'})"
        )


def runner_of(task: str, folder: ModelFolder) -> type[TaskRunner]:
    """Return the class that runs the model in `folder` for `task`, which must be in `RUNNERS`.

    Raises:
        ModelLoadFailed: permanent; the task is not for such a model, or the settings do not allow to load it.
    """
    with loading():  # transformers imports its parts lazily, too
        classes: list[type[TaskRunner]] = [
            getattr(import_module(f"engines.transformers.{module}"), name)
            for module, _, name in (one.partition(":") for one in RUNNERS[task])
        ]
    for one in classes:
        if one.takes(folder):
            return one
    needs = " or ".join(dict.fromkeys(one.needs for one in classes))
    raise folder.refused(*(kind for one in classes for kind in one.kinds), needs=needs)
