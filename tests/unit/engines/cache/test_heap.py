"""When memory is given back: once it is quiet, and where there is some to give."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import weakref

import pytest

from engines.cache import heap
from engines.cache.heap import HeapTrimmer
from engines.cache.memory_budget import MemoryBudget
from engines.cache.model_cache import ModelCache
from handlers.decoding.children.memory import trim
from tests.unit.engines.cached_models import Models, wait_until

MB = 1024**2


class Process:
    """What the trimmer sees of the process, and a cache of models beside it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.resident = 500 * MB
        self.given = 0
        self.models = Models(ModelCache(None, MemoryBudget(100)))
        self.trimmer = HeapTrimmer(
            self.models.cache,
            give_back=self.give_back,
            resident=lambda: self.resident,
            clock=lambda: self.now,
        )

    def give_back(self) -> None:
        self.given += 1
        self.resident = 510 * MB

    def look(self, times: int = 1) -> int:
        """Let the trimmer look, two seconds apart; return how often memory has been given back by now."""
        for _ in range(times):
            self.now += self.trimmer.tend()
        return self.given


@pytest.fixture
def process() -> Process:
    return Process()


def test_memory_is_given_back_once_after_a_burst(process: Process) -> None:
    process.models.use("a")
    process.resident = 900 * MB
    assert process.look() == 0, "it is not quiet yet"
    assert process.look() == 1
    assert process.look(20) == 1


def test_a_model_in_use_is_no_quiet(process: Process) -> None:
    process.resident = 900 * MB
    with process.models.lease("a"):
        assert process.look(20) == 0
    assert process.look() == 1


def test_a_process_that_has_not_grown_is_left_alone(process: Process) -> None:
    process.models.use("a")
    process.resident += 63 * MB
    assert process.look(20) == 0


def test_memory_is_given_back_when_a_model_has_left(process: Process) -> None:
    process.models.use("a", size=10)
    assert process.look(2) == 0
    process.models.cache.clear()
    assert process.look() == 1


def test_short_bursts_are_not_followed_one_by_one(process: Process) -> None:
    for _ in range(3):
        process.models.use("a")
        process.resident = 900 * MB
        process.look(2)
    assert process.given == 1
    assert process.look(3) == 2


def test_the_trimmer_looks_by_itself(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_LOOK_S", 0.001)
    process.resident = 900 * MB
    process.trimmer.looking.start()
    wait_until(lambda: process.given == 1)
    process.trimmer.looking.close()


def test_the_thread_keeps_neither_trimmer_nor_cache_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_LOOK_S", 0.001)
    cache = ModelCache(None, MemoryBudget(100))
    trimmer, kept = HeapTrimmer(cache), weakref.ref(cache)
    trimmer.looking.start()
    del trimmer, cache

    def is_gone() -> bool:
        gc.collect()
        return kept() is None

    wait_until(is_gone)


@pytest.mark.processes
def test_what_the_heap_keeps_is_given_back() -> None:
    """In a process of its own: many small blocks, of which the last stays, so that the heap cannot shrink by itself."""
    program = """
from handlers.decoding.children.memory import resident_bytes, trim
from engines.native_environment import bound_heap
bound_heap()
blocks = [bytes(20_000) for _ in range(10_000)]
last = bytes(20_000)
full = resident_bytes()
del blocks
kept = resident_bytes()
trim()
print(full, kept, resident_bytes())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    full, kept, left = map(int, done.stdout.split())
    if kept < full - 150 * MB:
        pytest.skip("this C library keeps nothing")
    assert left < full - 150 * MB


def test_a_c_library_without_the_call_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    trim()
