"""How much cache a row takes, against what caches of tiny models of several kinds hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from engines.transformers.generation.cache_sizes import CacheSizes, bytes_of_a_token

WINDOW = 8
TINY: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**TINY))  # type: ignore[no-untyped-call]


def mistral() -> Any:
    return MistralForCausalLM(MistralConfig(**TINY, sliding_window=WINDOW))  # type: ignore[no-untyped-call]


def gemma3() -> Any:
    layers = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(**TINY, sliding_window=WINDOW, layer_types=layers, head_dim=16)
    return Gemma3ForCausalLM(config)


def qwen3_next() -> Any:
    config = Qwen3NextConfig(
        **TINY,
        layer_types=["linear_attention", "full_attention"],
        head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=0,
        mlp_only_layers=[0, 1],
    )
    return Qwen3NextForCausalLM(config)  # type: ignore[no-untyped-call]


def deepseek() -> Any:
    """Return a model that keeps one compressed state for all its heads."""
    config = DeepseekV3Config(
        **{**TINY, "num_key_value_heads": 4},
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
        first_k_dense_replace=2,
    )
    return DeepseekV3ForCausalLM(config)  # type: ignore[no-untyped-call]


def held(model: Any, tokens: int) -> int:
    """Return the bytes of the cache after so many tokens, the last one by itself."""
    with torch.inference_mode():
        cache = model(input_ids=torch.ones((1, tokens - 1), dtype=torch.long), use_cache=True).past_key_values
        model(input_ids=torch.ones((1, 1), dtype=torch.long), past_key_values=cache)
    total = 0
    for layer in cache.layers:
        for name in ("keys", "values", "conv_states", "recurrent_states"):
            parts = getattr(layer, name, None)
            tensors = parts.values() if isinstance(parts, dict) else [parts]
            total += sum(tensor.nbytes for tensor in tensors if tensor is not None)
    return total


@pytest.mark.parametrize("make", [llama, deepseek, qwen3_next], ids=lambda make: make.__name__)
@pytest.mark.parametrize("tokens", [2, 7, 30])
def test_what_a_row_takes_is_what_the_layers_hold(make: Callable[[], Any], tokens: int) -> None:
    model = make().eval()
    assert CacheSizes.of_model(model).of(tokens) == held(model, tokens)


@pytest.mark.parametrize("make", [mistral, gemma3], ids=lambda make: make.__name__)
@pytest.mark.parametrize("tokens", [2, 7, 30])
def test_layers_with_a_window_keep_no_more_than_it(make: Callable[[], Any], tokens: int) -> None:
    model = make().eval()
    sizes = CacheSizes.of_model(model)
    of_a_layer = held(model, 2) // 2 // 2
    at_most = sizes.of(tokens)
    assert held(model, tokens) <= at_most <= held(model, tokens) + 2 * of_a_layer  # one column between steps
    if tokens > WINDOW:
        assert at_most < bytes_of_a_token(model.config, model.dtype) * tokens


def test_a_compressed_cache_takes_less_than_keys_and_values_of_all_heads() -> None:
    sizes = CacheSizes.of_model(deepseek().eval())
    assert sizes == CacheSizes(of_a_token=2 * (8 + 4) * 4)


def test_a_model_that_cannot_be_run_over_tokens_alone_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama().eval()

    def refuse(*arguments: Any, **named: Any) -> Any:
        raise ValueError("images, please")

    monkeypatch.setattr(model, "forward", refuse)
    assert CacheSizes.of_model(model) == CacheSizes(bytes_of_a_token(model.config, model.dtype))


def test_an_encoder_decoder_is_estimated() -> None:
    config = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2)
    assert CacheSizes.of_model(T5ForConditionalGeneration(config)) == CacheSizes(2 * 2 * 2 * 8 * 4)
