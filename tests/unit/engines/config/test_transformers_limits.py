"""What a batch of texts may hold where no setting says so, on the CPU and on a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engines.config.settings import TransformersSettings
from engines.transformers.generation.cache_sizes import Limits

GB = 2**30


def on_gpu(monkeypatch: pytest.MonkeyPatch, memory: int, **settings: Any) -> Limits:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=memory))
    return Limits.of(TransformersSettings(**settings), torch.device("cuda"))


def test_the_cpu_has_few_rows_short_prefills_and_little_padding() -> None:
    assert Limits.of(TransformersSettings(), torch.device("cpu")) == Limits(32, GB, 256, 0.25)


def test_a_gpu_has_many_rows_and_a_twentieth_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_gpu(monkeypatch, 80 * GB) == Limits(256, 4 * GB, 4096, 0.9)
    assert on_gpu(monkeypatch, 8 * GB).max_bytes == GB


def test_settings_go_before(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = on_gpu(monkeypatch, 80 * GB, max_rows=8, kv_cache_bytes=1000, prefill_tokens=64)
    assert limits == Limits(8, 1000, 64, 0.9)
