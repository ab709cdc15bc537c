"""faster-whisper's loop over clips, in a child process.

ctranslate2 4.8.5 damaged the heap of a process in which the pipeline had run a model before (its `dnnl_sgemm` aborts on
free); in its own process it runs through.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

_loaded: list[Any] = []
"""The child's model."""


class FasterWhisper:
    """Transcribes clips one by one with the float32 weights of `folder`, on one thread of a child process."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def __call__(self, paths: Sequence[Path]) -> tuple[list[str], float]:
        """Return the texts, and the seconds of CPU time that the child took for them."""
        return self._pool.submit(_transcribe, [str(path) for path in paths]).result()


@contextmanager
def faster_whisper(folder: Path, directory: Path) -> Iterator[FasterWhisper]:
    """Convert the weights of `folder` below `directory`, and load them in a child process during the block."""
    with ProcessPoolExecutor(1, get_context("spawn"), _load, (folder, directory / "ctranslate2")) as pool:
        yield FasterWhisper(pool)


def _load(folder: Path, target: Path) -> None:
    converters: Any = import_module("ctranslate2.converters")
    converters.TransformersConverter(str(folder), copy_files=["tokenizer.json"]).convert(str(target))
    model: Any = import_module("faster_whisper").WhisperModel
    _loaded.append(model(str(target), device="cpu", compute_type="float32", cpu_threads=1))


def _transcribe(paths: Sequence[str]) -> tuple[list[str], float]:
    began = time.process_time()
    texts = []
    for path in paths:
        segments, _ = _loaded[0].transcribe(path, language="en", beam_size=1)
        texts.append("".join(segment.text for segment in segments))
    return texts, time.process_time() - began
