"""Collects the samples of one recording, block by block, at 16 kHz in one buffer."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from handlers.errors import MediaCorrupt, MediaTooLarge, counted

_CANCELLED = 0.25
"""The share of the expected energy in the mean of channels, below which they cancel each other: one was wired the
wrong way round."""


def mixed(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Return (samples, channels) as (samples,): the mean, or the loudest channel where channels cancel each other."""
    count = samples.shape[1]
    if count == 1:
        return samples[:, 0].astype(np.float32, copy=False)
    mean: NDArray[np.float32] = samples.mean(axis=1, dtype=np.float32)
    energies = np.einsum("sc,sc->c", samples, samples, dtype=np.float64)
    # Not np.dot: its threads would compete with other decoding.
    left = float(np.einsum("s,s->", mean, mean, dtype=np.float64))
    if left < _CANCELLED * energies.sum() / count / count:
        return samples[:, int(energies.argmax())].astype(np.float32)
    return mean


_SILENCE = 0.001
"""The highest peak that counts as silence."""

_LOUDEST = 16.0
"""The highest peak of a recording that is only too loud, and is clipped at 1; above it the samples are integers that
were stored as floats."""

Samples = NDArray[np.float32]

SAMPLE_RATE = 16_000
"""Samples per second of every recording for an engine."""

MAX_CHANNELS = 64
RATES = range(1_000, 768_001)

_SMALLEST_BUFFER = 1 << 20


class Gathering:
    """The decoded samples of a recording so far, of one file or several; used by one thread.

    Holds each sample once, in an own memory mapping, which grows without a copy. Joined blocks would take twice the
    memory, and so would a buffer on the heap: to grow, it is copied from a gap between other blocks.
    """

    def __init__(self, max_s: float, max_samples: int | None = None) -> None:
        """`max_s` bounds the length, `max_samples` what is decoded for it, all channels together; None: nothing."""
        self._max_s = max_s
        self._max_samples = max_samples
        self._decoded = 0
        self._buffer = mmap.mmap(-1, _SMALLEST_BUFFER, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._size = 0
        """Bytes of the buffer that are samples."""

    @property
    def duration_s(self) -> float:
        """The length so far, in seconds."""
        return self._size / 4 / SAMPLE_RATE

    @property
    def samples(self) -> Samples:
        """Return the samples without a copy; none can be added afterwards."""
        return np.frombuffer(self._buffer, np.float32, count=self._size // 4)

    def back_to(self, duration_s: float) -> None:
        """Drop everything after the first `duration_s`, to decode it in another way."""
        self._size = round(duration_s * SAMPLE_RATE) * 4

    def is_heard(self, since_s: float) -> bool:
        """Whether the samples after the first `since_s` are more than silence."""
        behind = self.samples[round(since_s * SAMPLE_RATE) :]
        return bool(behind.size and max(behind.max(), -behind.min()) > _SILENCE)

    def add(
        self, blocks: Iterator[Samples], *, rate: int, channels: int, claimed: float | None, what: str, cure: str
    ) -> None:
        """Add the mono `blocks` of one file, clipped to -1..1; `claimed` is its length in samples by its header.

        Raises:
            MediaTooLarge: permanent; longer than allowed, or more to decode: by the header before anything is
                decoded, else nothing is decoded after that.
            MediaCorrupt: permanent; a rate or channels that are not read, or samples that are not numbers.
        """
        if rate not in RATES or not 0 < channels <= MAX_CHANNELS:
            raise MediaCorrupt(
                f"{what} claims {rate} Hz and {counted(channels, 'channel')}; {RATES.start} to {RATES.stop - 1} Hz "
                f"and 1 to {MAX_CHANNELS} channels are read: convert it, or {cure}"
            )
        left_s, read = self._max_s - self.duration_s, 0
        if claimed is not None:
            if claimed / rate > left_s:
                raise MediaTooLarge(_too_long(what, f"{claimed / rate:.0f} s", left_s))
            self._check_count(self._decoded + claimed * channels, what)
        stream = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
        for block in blocks:
            read += len(block)
            self._decoded += len(block) * channels
            if read > left_s * rate:
                raise MediaTooLarge(_too_long(what, f"more than {left_s:g} s", left_s))
            self._check_count(self._decoded, what)
            self._append(block if stream is None else stream.resample_chunk(block), what)
        if stream is not None:
            self._append(stream.resample_chunk(np.zeros(0, np.float32), last=True), what)

    def _append(self, block: Samples, what: str) -> None:
        peak = float(np.abs(block).max(initial=0.0))
        if not math.isfinite(peak):
            raise MediaCorrupt(
                f"{what} holds samples that are not numbers (NaN or infinity); send it with finite samples"
            )
        if peak > _LOUDEST:
            raise MediaCorrupt(
                f"{what} holds floating-point samples of up to {peak:.0f}, where full scale is 1; divide them by the "
                "largest value of their integer type (32768 for 16 bits), or save them as integers"
            )
        before, self._size = self._size, self._size + block.nbytes
        if self._size > len(self._buffer):
            self._buffer.resize(self._size * 5 // 4)  # pages that are never written take no memory
        self._buffer[before : self._size] = np.clip(block, -1.0, 1.0).data.cast("B")

    def _check_count(self, samples: float, what: str) -> None:
        if self._max_samples is not None and samples > self._max_samples:
            raise MediaTooLarge(
                f"{what} has more than {self._max_samples} samples, all channels together, which is what "
                "media.max_audio_samples allows: send it at a lower rate, with fewer channels or in parts"
            )


def _too_long(what: str, length: str, max_s: float) -> str:
    return f"{what} is {length} long; media.max_audio_s allows {max_s:g} s: send it in parts"
