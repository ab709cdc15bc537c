"""Masks in the form that a GPU's kernel adds to its scores."""

from __future__ import annotations

import pytest
import torch

from engines.transformers.generation.rolling.attention import added_to_scores


@pytest.mark.parametrize("columns", [1, 7, 8, 13])
def test_what_is_added_hides_the_same_columns_and_every_line_of_it_is_aligned(columns: int) -> None:
    torch.manual_seed(0)
    seen = torch.rand(3, 1, 2, columns) < 0.6
    seen[..., 0] = True
    query, past = torch.randn(3, 4, 2, 16), torch.randn(3, 4, columns, 16)
    added = added_to_scores(seen, torch.float32)
    attention = torch.nn.functional.scaled_dot_product_attention
    torch.testing.assert_close(
        attention(query, past, past, attn_mask=added), attention(query, past, past, attn_mask=seen)
    )
    assert all(stride % 8 == 0 for stride in added.stride()[:-1])
