"""Vision-language models of several families with random weights, and one prompt with an image for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    GemmaConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

IMAGE, VIDEO, BEGIN, END = 4, 3, 5, 6

Asked = tuple[Any, list[int], dict[str, torch.Tensor]]
"""A model, the tokens of a prompt, and what the model is given along with them."""


def _text(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": 40,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.5,
        **more,
    }


_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
    "initializer_range": 0.5,
}


def llava() -> Asked:
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_VISION),
        text_config=LlamaConfig(**_text()),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    extras = {"pixel_values": torch.randn(1, 3, 16, 16)}
    return LlavaForConditionalGeneration(config), [7, *[IMAGE] * 16, 8, 9], extras


def smolvlm() -> Asked:
    config = SmolVLMConfig(
        vision_config=_VISION,
        text_config=LlamaConfig(**_text()).to_dict(),
        image_token_id=IMAGE,
        scale_factor=2,
        tie_word_embeddings=False,
    )
    extras = {
        "pixel_values": torch.randn(1, 2, 3, 16, 16),
        "pixel_attention_mask": torch.ones(1, 2, 16, 16, dtype=torch.long),
    }
    tokens = [BEGIN, *[IMAGE] * 4, END, *[IMAGE] * 4, 7, 8]
    return SmolVLMForConditionalGeneration(config), tokens, extras  # type: ignore[no-untyped-call]


def paligemma() -> Asked:
    config = PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", "projection_dim": 32, **_VISION},
        text_config=GemmaConfig(**_text()).to_dict(),
        image_token_index=IMAGE,
        projection_dim=32,
    )
    tokens = [*[IMAGE] * 16, 1, 7, 8, 9]
    extras = {
        "pixel_values": torch.randn(1, 3, 16, 16),
        "token_type_ids": torch.zeros(1, len(tokens), dtype=torch.long),
    }
    return PaliGemmaForConditionalGeneration(config), tokens, extras


def qwen2_5_vl() -> Asked:
    config = Qwen2_5_VLConfig(
        text_config=_rotated_in_three(),
        vision_config={**_PATCHES, "window_size": 16, "fullatt_block_indexes": [1]},
        **_PLACES,
    )
    return Qwen2_5_VLForConditionalGeneration(config), *_patches()  # type: ignore[no-untyped-call]


def qwen3_vl() -> Asked:
    config = Qwen3VLConfig(
        text_config=_rotated_in_three(),
        vision_config={**_PATCHES, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        **_PLACES,
    )
    return Qwen3VLForConditionalGeneration(config), *_patches()  # type: ignore[no-untyped-call]


_PATCHES: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 4,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
}
_PLACES: dict[str, Any] = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": BEGIN,
    "vision_end_token_id": END,
}


def _rotated_in_three() -> dict[str, Any]:
    return _text(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]})


def _patches() -> tuple[list[int], dict[str, torch.Tensor]]:
    """Return a prompt with an image of 2 x 3 tokens, which takes 3 positions."""
    tokens = [7, BEGIN, *[IMAGE] * 6, END, 8, 9]
    kinds = torch.tensor([[int(token == IMAGE) for token in tokens]])
    extras = {
        "pixel_values": torch.randn(24, 3 * 2 * 4 * 4),
        "image_grid_thw": torch.tensor([[1, 4, 6]]),
        "mm_token_type_ids": kinds,
    }
    return tokens, extras


def make(family: Callable[[], Asked]) -> Asked:
    """Return a model of a family and its prompt, the same ones each time."""
    torch.manual_seed(0)
    model, tokens, extras = family()
    for weights in model.parameters():
        if weights.dim() > 1:  # else images make no difference that is worth a test
            torch.nn.init.normal_(weights, std=0.3)
    return model.eval(), tokens, extras
