"""Attention of one new token over a long past, without copying the past for every group of query heads."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "sdpa_grouped"


def use_grouped_attention(model: PreTrainedModel) -> None:
    """Let a model that attends by `sdpa` use the faster path here; other models are not changed. Where several query
    heads share one head of keys, `sdpa` with a mask copies the whole cache for each of them at every step. For a
    single new token those query heads can be handled like several tokens with the same past: the same products, no
    copy."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, _attend)
        AttentionMaskInterface.register(NAME, _mask)
        model.set_attn_implementation(NAME)


def _mask(*args: Any, dtype: torch.dtype = torch.float32, **kwargs: Any) -> torch.Tensor | None:
    """Return the attention mask, (rows, 1, tokens, columns): booleans, or on a GPU numbers to add to the scores."""
    seen: torch.Tensor | None = sdpa_mask(*args, dtype=dtype, **kwargs)
    return added_to_scores(seen, dtype) if seen is not None and seen.device.type == "cuda" else seen


def added_to_scores(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a boolean mask as numbers, 0 where it is true, with each line aligned to 8. A GPU kernel reads that
    format. With booleans every layer would convert them, which takes longer than its attention."""
    columns = seen.shape[-1]
    lines = (*seen.shape[:-1], -(-columns // 8) * 8)
    return torch.zeros(lines, dtype=dtype, device=seen.device)[..., :columns].masked_fill_(~seen, -torch.inf)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention, (rows, tokens, heads, head size), as transformers' own functions do."""
    rows, heads, tokens, size = query.shape
    groups = heads // key.shape[1]
    if tokens > 1 or groups == 1 or kwargs.get("position_bias") is not None:
        attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
        )
        return attended
    output = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, key.shape[1], groups, size),
        key,
        value,
        attn_mask=attention_mask,  # (rows, 1, 1, columns): the same for every head
        dropout_p=dropout,
        scale=scaling,
        is_causal=False,
    )
    return output.reshape(rows, heads, tokens, -1).transpose(1, 2).contiguous(), None
