"""Vision-language models with random weights and a vocabulary of letters: for shapes, not for sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BatchFeature,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
)
from transformers.video_utils import make_batched_videos

from tests.unit.engines.tiny_models import ENDS

CONTEXT = 512
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
WORDS = [*SPECIAL, "user", "assistant", *"abcdefghijklmnopqrstuvwxyz"]
IMAGE = WORDS.index("<image>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ message['role'] }} {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)


def tokenizer() -> Any:
    """Return a tokenizer that knows `WORDS`, split at spaces."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[4:],
    )


def _text(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.5,
        **ENDS,
        **more,
    }


def _vision(size: int) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        image_size=size,
        patch_size=8,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        initializer_range=0.5,
    )


def save_llava(folder: Path, *, chat: bool = True) -> Path:
    """Save a LLaVA for images of 24 x 24 pixels, 9 tokens each, and return its folder."""
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=_vision(24),
        text_config=LlamaConfig(**_text()),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        image_seq_length=9,
    )
    processor = LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}),
        tokenizer=tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE if chat else None,
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    return _save(LlavaForConditionalGeneration(config), processor, folder)


def save_llava_next(folder: Path) -> Path:
    """Save a LLaVA-NeXT, which cuts an image into more tiles the larger it is, and return its folder."""
    torch.manual_seed(0)
    tiles = [[16, 32], [32, 16], [32, 32]]
    config = LlavaNextConfig(
        vision_config=_vision(16),
        text_config=LlamaConfig(**_text()),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        image_grid_pinpoints=tiles,
        image_seq_length=4,
    )
    processor = LlavaNextProcessor(  # type: ignore[no-untyped-call]
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": 16},
            crop_size={"height": 16, "width": 16},
            image_grid_pinpoints=tiles,
        ),
        tokenizer=tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    return _save(LlavaNextForConditionalGeneration(config), processor, folder)


class QwenProcessorWithoutVideo(Qwen2VLProcessor):
    """The library's own, made without the video processor, which would need torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[no-untyped-call]


def make_qwen() -> tuple[Qwen2VLForConditionalGeneration, Qwen2VLProcessor]:
    """Return a Qwen2-VL, which takes images at their own size as patches and a grid, and its processor."""
    torch.manual_seed(0)
    config = Qwen2VLConfig(
        text_config=_text(rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}),
        vision_config={
            "depth": 1,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
        },
        image_token_id=IMAGE,
        video_token_id=WORDS.index("<|video_pad|>"),
        vision_start_token_id=WORDS.index("<|vision_start|>"),
        vision_end_token_id=WORDS.index("<|vision_end|>"),
    )
    words = tokenizer()
    words.image_token, words.image_token_id = "<image>", IMAGE
    processor = QwenProcessorWithoutVideo(  # type: ignore[no-untyped-call]
        image_processor=Qwen2VLImageProcessorPil(
            patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 1024}
        ),
        tokenizer=words,
        chat_template=CHAT_TEMPLATE.replace("<image>", "<|vision_start|> <image> <|vision_end|>"),
    )
    model = Qwen2VLForConditionalGeneration(config)  # type: ignore[no-untyped-call]
    _quiet_specials(model)
    return model, processor


class FramesAsPatches:
    """What Qwen2VLVideoProcessor does with frames whose sides are multiples of 8, without torchvision."""

    patch_size, merge_size, temporal_patch_size = 4, 2, 2
    model_input_names = ("pixel_values_videos", "video_grid_thw")

    def __call__(self, videos: Any, *, do_sample_frames: bool, **more: Any) -> BatchFeature:
        assert not do_sample_frames
        [video] = make_batched_videos(videos)
        frames = torch.from_numpy(video).permute(0, 3, 1, 2).float() / 127.5 - 1
        frames = torch.cat([frames, frames[-1:]]) if len(frames) % 2 else frames
        times, channels, height, width = len(frames) // 2, *frames.shape[1:]
        cells = frames.reshape(times, 2, channels, height // 8, 2, 4, width // 8, 2, 4)
        patches = cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, channels * 2 * 4 * 4)
        grid = torch.tensor([[times, height // 4, width // 4]])
        return BatchFeature({"pixel_values_videos": patches, "video_grid_thw": grid})


def make_qwen_for_videos(video_processor: Any) -> tuple[Qwen2VLForConditionalGeneration, Qwen2VLProcessor]:
    """Return a Qwen2-VL whose chat template has places for videos as well, and its processor."""
    model, images = make_qwen()
    words = images.tokenizer
    words.video_token, words.video_token_id = "<|video_pad|>", WORDS.index("<|video_pad|>")
    place = "{% elif part['type'] == 'video' %}<|vision_start|> <|video_pad|> <|vision_end|> "
    processor = QwenProcessorWithoutVideo(  # type: ignore[no-untyped-call]
        image_processor=images.image_processor,
        tokenizer=words,
        chat_template=CHAT_TEMPLATE.replace("{% else %}", f"{place}{{% else %}}"),
    )
    processor.video_processor = video_processor
    return model, processor


def _quiet_specials(model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight[: len(SPECIAL)] = 0  # so that special tokens hardly ever win


def _save(model: Any, processor: Any, folder: Path) -> Path:
    _quiet_specials(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
