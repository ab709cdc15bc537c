"""How much of each device models may take."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engines.cache.cached_model import Entry, State
from engines.cache.memory_budget import MemoryBudget, gpu_bytes, ram_bytes
from handlers.errors import ModelLoadFailed


@pytest.mark.parametrize(
    ("device", "place"),
    [
        ("cpu", "cpu"),
        ("mps", "cpu"),
        ("", "cpu"),
        ("cuda", "cuda:0"),
        ("cuda:0", "cuda:0"),
        ("cuda:3", "cuda:3"),
    ],
)
def test_every_gpu_is_a_place_of_its_own_and_all_else_is_ram(device: str, place: str) -> None:
    assert MemoryBudget.place(device) == place


def test_a_gpu_gives_nine_tenths_of_its_memory_and_is_asked_once() -> None:
    asked: list[str] = []

    def size_of(device: str) -> int:
        asked.append(device)
        return 1000 if device == "cuda:0" else 2000

    budget = MemoryBudget(5, size_of=size_of)
    assert [budget.limit(place) for place in ("cpu", "cuda:0", "cuda:1", "cuda:0")] == [5, 900, 1800, 900]
    assert asked == ["cuda:0", "cuda:1"]


def test_a_setting_for_gpus_spares_asking_them() -> None:
    def size_of(device: str) -> int:
        raise AssertionError(device)

    assert MemoryBudget(5, 7, size_of).limit("cuda:1") == 7


def test_a_gpu_that_cannot_be_asked_has_no_limit() -> None:
    def size_of(device: str) -> int:
        raise RuntimeError("no such device")

    assert MemoryBudget(5, size_of=size_of).limit("cuda:7") == sys.maxsize


def test_what_a_gpu_cannot_hold_is_refused_with_the_setting_to_raise() -> None:
    budget = MemoryBudget(5, size_of=lambda device: 1000)
    budget.check("m/1", 900, "cuda")
    with pytest.raises(ModelLoadFailed) as caught:
        budget.check("m/1", 901, "cuda")
    assert caught.value.message == (
        "model m/1 takes 901 bytes on cuda:0; cache.max_gpu_bytes allows 900 for all models together: raise "
        "cache.max_gpu_bytes if there is as much memory, or name a smaller model"
    )
    assert not caught.value.retryable


def test_the_size_of_a_real_gpu_is_that_of_its_memory() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        with pytest.raises((AssertionError, RuntimeError)):
            gpu_bytes("cuda:0")
        return
    assert gpu_bytes("cuda:0") == torch.cuda.mem_get_info(0)[1]


def entry(key: str, size: int, *, shared: str | None = None, leases: int = 0) -> Entry:
    return Entry(
        key,
        lambda model: None,
        State.READY,
        bytes=size,
        device="cpu",
        takes_memory=True,
        shared=shared,
        leases=leases,
    )


def test_bytes_that_models_share_count_once() -> None:
    entries = [entry("a", 100, shared="weights"), entry("b", 100, shared="weights"), entry("c", 30)]
    assert MemoryBudget(1000).taken(entries) == {"cpu": 130}
    assert MemoryBudget(130).excess(entries, max_models=3) == ([], False)
    assert not MemoryBudget(130).is_full("cpu", entries)


def test_shared_bytes_are_free_when_the_last_who_shares_them_has_gone() -> None:
    a, b, c = entry("a", 100, shared="weights"), entry("b", 100, shared="weights"), entry("c", 30)
    assert MemoryBudget(100).excess([a, b, c], max_models=3) == ([a, b], False)
    assert MemoryBudget(100).excess([a, c, b], max_models=3) == ([c], False), "b was used last"
    busy = entry("busy", 100, shared="weights", leases=1)
    assert MemoryBudget(90).excess([busy, c], max_models=3) == ([c], True)


def test_models_that_are_the_same_bytes_count_as_one_model() -> None:
    entries = [entry("a", 10, shared="weights"), entry("b", 10, shared="weights"), entry("c", 10)]
    assert MemoryBudget(100).excess(entries, max_models=2) == ([], False)


def test_without_a_bound_on_their_number_only_bytes_make_models_leave() -> None:
    entries = [entry(str(number), 1) for number in range(100)]
    assert MemoryBudget(100).excess(entries, max_models=None) == ([], False)
    assert MemoryBudget(98).excess(entries, max_models=None) == (entries[:2], False)


def test_half_of_the_memory_is_for_models_by_default(tmp_path: Path) -> None:
    assert MemoryBudget(None).limit("cpu") == ram_bytes() // 2


@pytest.mark.parametrize("limit", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_container_has_the_memory_that_it_is_bound_to(tmp_path: Path, limit: str) -> None:
    of_the_machine = ram_bytes(tmp_path)
    (tmp_path / limit).parent.mkdir(exist_ok=True)
    (tmp_path / limit).write_text("4096\n")
    assert ram_bytes(tmp_path) == 4096 < of_the_machine
    (tmp_path / limit).write_text("max\n")
    assert ram_bytes(tmp_path) == of_the_machine
