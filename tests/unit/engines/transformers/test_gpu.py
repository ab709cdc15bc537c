"""What a GPU is used for and how running out of its memory ends; skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from engines.cache.memory_budget import MemoryBudget
from engines.config.settings import TransformersSettings
from engines.transformers.classification import AudioClassificationRunner
from engines.transformers.engine import TransformersEngine
from engines.transformers.generation.rolling.loop import RollingLoop
from engines.transformers.generation.runner import TextGenerationRunner
from tests.unit.engines.tiny_models import ENDS, WORDS, save_llama, saved
from tests.unit.engines.transformers.generation.rolling.parts import PATIENCE_S

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

MB = 2**20


@contextmanager
def only_free(free: int) -> Iterator[None]:
    """Let torch have `free` bytes of the GPU more than it holds now."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + free) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def times_out_of_memory() -> int:
    return int(torch.cuda.memory_stats()["num_ooms"])


def save_llama_with_a_large_past(folder: Path) -> Path:
    """Save a language model each token of which takes half a megabyte of the GPU's memory; return its folder."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=16,
        head_dim=512,
        max_position_embeddings=64,
        **ENDS,
    )
    model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    return saved(model.to(torch.bfloat16), folder)


def save_ast(folder: Path) -> Path:
    """Save an audio classifier that hears ten seconds; return its folder."""
    torch.manual_seed(0)
    config = ASTConfig(hidden_size=256, num_hidden_layers=2, num_attention_heads=4, intermediate_size=4096)
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor().save_pretrained(folder)  # type: ignore[no-untyped-call]
    return folder


def test_auto_is_the_gpu_and_bf16(tmp_path: Path) -> None:
    engine = TransformersEngine(TransformersSettings())
    runner = engine.load_model("tiny", task="text-generation", path=save_llama(tmp_path))
    assert (runner.model.device.type, runner.model.dtype) == ("cuda", torch.bfloat16)
    assert engine.health() == {"status": "ok", "device": "cuda", "torch_dtype": "torch.bfloat16"}


def test_a_model_counts_where_it_was_expected_and_leaves_nothing_there(tmp_path: Path) -> None:
    engine = TransformersEngine(TransformersSettings())
    folder = save_llama(tmp_path)
    expected = engine.expected_size("tiny", task="text-generation", path=folder)
    before = torch.cuda.memory_allocated()
    runner = engine.load_model("tiny", task="text-generation", path=folder)
    assert expected is not None
    assert expected[0] == pytest.approx(engine.model_bytes(runner), rel=0.01)
    assert MemoryBudget.place(expected[1]) == MemoryBudget.place(engine.model_device(runner)) == "cuda:0"
    engine.infer(runner, {"inputs": "a b c"}, {"max_new_tokens": 4})
    assert engine.unload_model(runner)
    assert torch.cuda.memory_allocated() <= before + 64 * MB  # cuBLAS keeps a workspace


def test_texts_that_outgrow_the_gpu_are_all_answered_and_fewer_bytes_of_them_grow_together_afterwards(
    tmp_path: Path,
) -> None:
    engine = TransformersEngine(TransformersSettings(max_rows=32, kv_cache_bytes=2**40))
    runner = engine.load_model("big", task="text-generation", path=save_llama_with_a_large_past(tmp_path))
    assert isinstance(runner, TextGenerationRunner)
    texts: dict[str, int] = {" ".join("abcdefghijklmnopqrst"[start:]): 20 for start in range(16)}
    runner.submit({"inputs": "a b c"}, {"max_new_tokens": 4}).result(PATIENCE_S)  # cuBLAS takes what it needs
    with only_free(300 * MB):
        failures = times_out_of_memory()
        asked = [runner.submit({"inputs": text}, {"max_new_tokens": new}) for text, new in texts.items()]
        answers = [answer.result(PATIENCE_S) for answer in asked]
        assert times_out_of_memory() > failures
    assert all(answer["completion_tokens"] == 20 or answer["finish_reason"] == "stop" for answer in answers)
    loop = runner.texts
    assert isinstance(loop, RollingLoop)
    assert 0 < loop._bytes_at_once.most < 300 * MB
    engine.unload_model(runner)


# The extractor says of its own defaults that they are finer than its spectrum.
@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_a_batch_that_outgrows_the_gpu_runs_in_halves_and_later_ones_fit_at_once(tmp_path: Path) -> None:
    engine = TransformersEngine(TransformersSettings())
    runner = engine.load_model("ast", task="audio-classification", path=save_ast(tmp_path))
    assert isinstance(runner, AudioClassificationRunner)
    sounds: list[dict[str, Any]] = [
        {"audio": torch.randn(16_000).numpy(), "sampling_rate": 16_000, "duration_s": 1.0} for _ in range(16)
    ]
    whole = engine.infer_batch(runner, sounds, [{}] * 16)
    with only_free(120 * MB):
        failures = times_out_of_memory()
        halved = engine.infer_batch(runner, sounds, [{}] * 16)
        assert times_out_of_memory() > failures
        failures = times_out_of_memory()
        again = engine.infer_batch(runner, sounds, [{}] * 16)
        assert times_out_of_memory() == failures
    assert runner.budget.most < 16
    labels = [
        [one["labels"][0]["label"] for one in outcomes if isinstance(one, dict)] for outcomes in (whole, halved, again)
    ]
    assert labels[0] == labels[1] == labels[2]
    assert len(labels[0]) == 16
    engine.unload_model(runner)
