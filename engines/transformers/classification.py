"""Runners that return labels, for sounds (AST, wav2vec2) and videos (VideoMAE)."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from transformers import ASTFeatureExtractor, PreTrainedModel
from transformers.audio_utils import spectrogram_batch

from engines.transformers.device import to_model
from engines.transformers.loading import ModelFolder
from engines.transformers.memory_limits import ShrinkOnOutOfMemory
from engines.transformers.process_state import running
from engines.transformers.runner import Outcome, TaskRunner
from handlers.errors import InvalidInput, counted

DEFAULT_LABELS = 5

Features = Mapping[str, torch.Tensor]


class _Prepared(NamedTuple):
    windows: Sequence[Any]
    besides: dict[str, Any]
    top_k: int


class ClassificationRunner(TaskRunner):
    """Returns labels and scores; a subclass cuts an input into windows and computes their features. Only features of
    one shape run together, without padding: no result depends on the other inputs of its batch."""

    most_at_once: ClassVar[float] = math.inf
    """The most that the windows of one pass cost together: bounds memory, however many an input has."""

    def __init__(self, name: str, model: PreTrainedModel) -> None:
        super().__init__(name, model)
        self.windows = ShrinkOnOutOfMemory(name, of="windows", most=self.most_at_once)

    def cost(self, window: Any) -> float:
        """Return what a window costs, in the unit of `most_at_once`."""
        return 1.0

    @abstractmethod
    def split(self, inputs: dict[str, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
        """Return the windows of one input, alike in shape, and fields of its result besides labels. With several, its
        scores are the means over all.

        Raises:
            InvalidInput: permanent; the model cannot take this input.
        """

    @abstractmethod
    def features(self, windows: Sequence[Any]) -> Sequence[Features]:
        """Return the model's inputs for each window, one row of a batch."""

    @running()
    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> _Prepared:
        return _Prepared(*self.split(inputs), options.get("top_k", DEFAULT_LABELS))

    def answer(self, prepared: Sequence[_Prepared]) -> Iterator[tuple[int, Outcome]]:
        """Yield labels [{label, score}], the likeliest first, and what `split` adds, for each input."""
        with running():
            features = iter(self.features([window for one in prepared for window in one.windows]))
        rows = [list(itertools.islice(features, len(one.windows))) for one in prepared]
        alike: dict[tuple[object, ...], list[int]] = {}
        for place, its_rows in enumerate(rows):
            shapes = tuple((name, tensor.shape) for name, tensor in its_rows[0].items())
            alike.setdefault(shapes, []).append(place)
        for places in alike.values():
            together = [row for place in places for row in rows[place]]
            costs = [self.cost(window) for place in places for window in prepared[place].windows]
            with running():
                scores = iter(self.windows.run(self._scores, together, costs))
            for place in places:
                one = prepared[place]
                its_scores = np.mean(list(itertools.islice(scores, len(one.windows))), axis=0)
                yield place, {"labels": self._labels(its_scores, one.top_k), **one.besides}

    def _scores(self, features: Sequence[Features]) -> Sequence[NDArray[np.float32]]:
        with torch.inference_mode():
            joined = {name: torch.cat([one[name] for one in features]) for name in features[0]}
            seen = to_model(self.model, joined)
            logits: torch.Tensor = self.model(**seen).logits.float().cpu()
        # Several labels may be right at once, or else exactly one is.
        if self.model.config.problem_type == "multi_label_classification":
            return list(logits.sigmoid().numpy())
        return list(logits.softmax(-1).numpy())

    def _labels(self, scores: NDArray[np.float32], top_k: int) -> list[dict[str, Any]]:
        best = np.argsort(scores)[::-1][: top_k or len(scores)].tolist()  # NaN first: it must be seen
        names = self.model.config.id2label or {}
        return [{"label": names.get(index, str(index)), "score": float(scores[index])} for index in best]


_HOP_S = 0.01
"""Seconds from one frame of an audio spectrogram transformer to the next."""

_SOUND_AT_ONCE_S = 100.0
"""Most seconds of sound in one pass, and whose filter banks are computed together, at about a megabyte for each."""

_WINDOW_S = 30.0
"""Length of a window for models that take any length: their memory grows with its square."""

_MOST_WINDOWS = 256
"""Most windows of one recording; with more, a long one would take minutes and the scores would hardly change."""

_SHORTEST_S = 0.1
"""Models use windows of 25 ms and more; a shorter recording is padded with silence."""


class AudioClassificationRunner(ClassificationRunner):
    """Labels float32 mono recordings within -1..1, resampled to the model's own rate. A recording longer than one
    window is split into windows at equal distances, from its beginning to its end; its scores are their means."""

    kinds = ("AutoModelForAudioClassification",)
    needs = "an audio classifier"
    parts = (ModelFolder.feature_extractor,)
    most_at_once = _SOUND_AT_ONCE_S

    def __init__(self, name: str, model: PreTrainedModel, extractor: Any) -> None:
        super().__init__(name, model)
        self.extractor = extractor
        self.sound = ShrinkOnOutOfMemory(name, of="seconds of sound", most=_SOUND_AT_ONCE_S)

    def cost(self, window: NDArray[np.float32]) -> float:
        """Return the seconds of a window."""
        return len(window) / float(self.extractor.sampling_rate)

    def split(self, inputs: dict[str, Any]) -> tuple[Sequence[NDArray[np.float32]], dict[str, Any]]:
        windows = self._windows(inputs)
        duration_s: float = inputs["duration_s"]
        heard_s = min(duration_s, round(sum(map(len, windows)) / self.extractor.sampling_rate, 3))
        return windows, {"duration_s": duration_s, "windows": len(windows), "heard_s": heard_s}

    def features(self, windows: Sequence[NDArray[np.float32]]) -> Sequence[Features]:
        rate = self.extractor.sampling_rate
        # torchaudio, where it is installed, has no use for the filters.
        if isinstance(self.extractor, ASTFeatureExtractor) and hasattr(self.extractor, "mel_filters"):
            return self.sound.run(self._filter_banks, windows, [self.cost(one) for one in windows])
        return [dict(self.extractor(one, sampling_rate=rate, return_tensors="pt")) for one in windows]

    def _filter_banks(self, windows: Sequence[NDArray[np.float32]]) -> list[Features]:
        """Return what the extractor does, whose loop over frames would run once for each window: other threads then
        take the interpreter's lock thousands of times a second, and the loop takes twice as long."""
        banks = spectrogram_batch(
            list(windows),
            self.extractor.window,
            frame_length=len(self.extractor.window),
            hop_length=160,
            fft_length=512,
            power=2.0,
            center=False,
            preemphasis=0.97,
            mel_filters=self.extractor.mel_filters,
            log_mel="log",
            mel_floor=float(np.finfo(np.float32).eps),
            remove_dc_offset=True,
        )
        most = self.extractor.max_length
        rows = np.zeros((len(windows), most, self.extractor.num_mel_bins), np.float32)
        for row, bank in zip(rows, banks, strict=True):
            frames = bank.T[:most]
            row[: len(frames)] = frames
        if self.extractor.do_normalize:
            rows = self.extractor.normalize(rows)
        return [{"input_values": row} for row in torch.from_numpy(rows)[:, None]]

    def _windows(self, inputs: dict[str, Any]) -> list[NDArray[np.float32]]:
        samples, window = self._samples(inputs), self._window
        count = min(_MOST_WINDOWS, math.ceil(len(samples) / window))
        if count < 2:
            return [samples]
        starts = np.linspace(0, len(samples) - window, count).round().astype(int)
        return [samples[start : start + window] for start in starts]

    @property
    def _window(self) -> int:
        extractor = self.extractor
        if (frames := getattr(extractor, "max_length", None)) and hasattr(extractor, "num_mel_bins"):
            return int(frames) * int(_HOP_S * extractor.sampling_rate)
        own = getattr(extractor, "n_samples", None)
        return int(own or _WINDOW_S * extractor.sampling_rate)

    def _samples(self, inputs: dict[str, Any]) -> NDArray[np.float32]:
        """Return the recording at the model's sampling rate, padded to its shortest length."""
        samples: NDArray[np.float32] = inputs["audio"]
        rate = self.extractor.sampling_rate
        if inputs["sampling_rate"] != rate:
            samples = soxr.resample(samples, inputs["sampling_rate"], rate)
        if (missing := round(_SHORTEST_S * rate) - len(samples)) > 0:
            samples = np.pad(samples, (0, missing))
        return samples


class VideoClassificationRunner(ClassificationRunner):
    """Labels videos by as many frames as the model takes, at equal distances. Where there are fewer, some are repeated,
    and the result says so as `frames_repeated`."""

    kinds = ("AutoModelForVideoClassification",)
    needs = "a video classifier"
    parts = (ModelFolder.image_processor,)

    def __init__(self, name: str, model: PreTrainedModel, processor: Any) -> None:
        super().__init__(name, model)
        self.processor = processor
        config = model.config
        self.num_frames: int | None = getattr(config, "num_frames", getattr(config, "frames_per_clip", None))

    def split(self, inputs: dict[str, Any]) -> tuple[Sequence[list[Any]], dict[str, Any]]:
        if "prompt" in inputs:
            raise InvalidInput(f"data.prompt is given, but model {self.name} gives labels only; leave it out")
        frames = inputs["frames"]
        wanted = self.num_frames or len(frames)
        seen = evenly(len(frames), wanted)
        besides = frames_seen(inputs, seen)
        if len(frames) < wanted:
            got = counted(len(frames), "different one")
            besides["frames_repeated"] = (
                f"the model takes {wanted} frames and got {got}, some of them several times; "
                "its labels are less reliable than those of more frames"
            )
        return [[frames[index] for index in seen]], besides

    def features(self, windows: Sequence[list[Any]]) -> Sequence[Features]:
        return [
            dict(self.processor(frames, return_tensors="pt", input_data_format="channels_last")) for frames in windows
        ]


def evenly(there: int, wanted: int) -> list[int]:
    """Return `wanted` of the indices 0 to `there` - 1, ascending, at equal distances; some twice where there are
    fewer."""
    return [int((index + 0.5) * there / wanted) for index in range(wanted)]


def frames_seen(inputs: dict[str, Any], seen: Sequence[int]) -> dict[str, Any]:
    times = inputs["frame_times_s"]
    return {
        "frame_times_s": [times[index] for index in dict.fromkeys(seen)],
        "duration_s": inputs["duration_s"],
    }
