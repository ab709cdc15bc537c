"""What tasks that give labels have in common: features, batches of alike ones, scores."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from transformers import PreTrainedModel

from engines.transformers.device import to_model
from engines.transformers.memory_limits import ShrinkOnOutOfMemory
from engines.transformers.process_state import running
from engines.transformers.runner import Outcome, TaskRunner

DEFAULT_LABELS = 5

Features = Mapping[str, torch.Tensor]


class _Prepared(NamedTuple):
    features: Features
    besides: dict[str, Any]
    top_k: int


class ClassificationRunner(TaskRunner):
    """Gives labels and scores; a subclass says what the features of an input are.

    Each input's features are made for it alone, and only those of one shape run together, without padding:
    no result depends on which others were in its batch.
    """

    windows_at_once: ClassVar[float] = math.inf
    """Windows in one pass at most: bounds memory, however many an input has."""

    def __init__(self, name: str, model: PreTrainedModel) -> None:
        super().__init__(name, model)
        self.windows = ShrinkOnOutOfMemory(name, of="windows", most=self.windows_at_once)

    @abstractmethod
    def features(self, inputs: dict[str, Any]) -> tuple[Features, dict[str, Any]]:
        """Return what the model is given for one input, and what its result says besides labels.

        One row of a batch, or several where the model hears or sees one window of the input at a time: the
        scores are the means over all of them then.

        Raises:
            InvalidInput: permanent; the model cannot be given this.
        """

    @running()
    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> _Prepared:
        """Return the features of one input, and how many labels it asks for."""
        return _Prepared(*self.features(inputs), options.get("top_k", DEFAULT_LABELS))

    def answer(self, prepared: Sequence[_Prepared]) -> Iterator[tuple[int, Outcome]]:
        """Yield labels [{label, score}], the likeliest first, and what `features` adds, for each input."""
        alike: dict[tuple[object, ...], list[int]] = {}
        for place, one in enumerate(prepared):
            shapes = tuple((name, tensor.shape[1:]) for name, tensor in one.features.items())
            alike.setdefault(shapes, []).append(place)
        for places in alike.values():
            windows = [window for place in places for window in _windows(prepared[place].features)]
            with running():
                scores = iter(self.windows.run(self._scores, windows, [1.0] * len(windows)))
            for place in places:
                one = prepared[place]
                its_scores = torch.stack(list(itertools.islice(scores, _count(one.features)))).mean(0)
                yield place, {"labels": self._labels(its_scores, one.top_k), **one.besides}

    def _scores(self, features: Sequence[Features]) -> list[torch.Tensor]:
        """Return the scores of all labels, (labels,), of each window."""
        batch = {name: torch.cat([one[name] for one in features]) for name in features[0]}
        with torch.inference_mode():
            logits: torch.Tensor = self.model(**to_model(self.model, batch)).logits.float().cpu()
        # Several labels may be right at once, or else exactly one is.
        if self.model.config.problem_type == "multi_label_classification":
            return list(logits.sigmoid())
        return list(logits.softmax(-1))

    def _labels(self, scores: torch.Tensor, top_k: int) -> list[dict[str, Any]]:
        """Return the `top_k` likeliest labels, all for 0."""
        best = scores.topk(min(top_k or len(scores), len(scores)))
        names = self.model.config.id2label or {}
        return [
            {"label": names.get(index, str(index)), "score": score}
            for index, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def _count(features: Features) -> int:
    return len(next(iter(features.values())))


def _windows(features: Features) -> list[Features]:
    """Return the features of each window, a batch of one."""
    return [
        {name: tensor[row : row + 1] for name, tensor in features.items()} for row in range(_count(features))
    ]
