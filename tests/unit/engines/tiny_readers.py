"""Random models that read pictures and documents, saved as real ones are: for shapes, not for sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    LayoutLMConfig,
    LayoutLMForQuestionAnswering,
    LayoutLMv3Config,
    LayoutLMv3ForQuestionAnswering,
    PPOCRV5MobileDetConfig,
    PPOCRV5MobileDetForObjectDetection,
    PPOCRV5MobileRecConfig,
    PPOCRV5MobileRecForTextRecognition,
    PreTrainedTokenizerFast,
    TrOCRConfig,
    TrOCRForCausalLM,
    TrOCRProcessor,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTModel,
)
from transformers.models.layoutlmv3.image_processing_pil_layoutlmv3 import LayoutLMv3ImageProcessorPil
from transformers.models.layoutlmv3.tokenization_layoutlmv3 import LayoutLMv3Tokenizer
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.unit.engines.tiny_models import ENDS, SMALL, WORDS, tokenizer

CHARACTERS = ["blank", *"abcdefgh", " "]
"""Classes of the tiny recognizer."""

QUESTION_WORDS = [
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "[UNK]",
    "what",
    "is",
    "the",
    "total",
    *"abcdefghijklmnopqrstuvwxyz",
]
WINDOW = 48
"""Tokens of question and page that the tiny document models read at once."""

_BACKBONE = {
    "model_type": "pp_lcnet_v3",
    "scale": 0.25,
    "block_configs": [
        [[3, 16, 32, 1, False]],
        [[3, 32, 32, 1, False]],
        [[3, 32, 64, [2, 1], False]],
        [[3, 64, 64, [1, 2], False]],
        [[3, 64, 64, [2, 1], False], [3, 64, 64, [2, 1], False]],
    ],
    "out_features": ["stage2", "stage3", "stage4", "stage5"],
    "out_indices": [2, 3, 4, 5],
    "divisor": 8,
    "conv_symmetric_num": 1,
}


def save_trocr(folder: Path) -> Path:
    """Save an image encoder with a text decoder, and its processor; it writes at most 32 tokens."""
    torch.manual_seed(0)
    encoder = ViTModel(
        ViTConfig(
            num_hidden_layers=1,
            **SMALL,
            image_size=32,
            patch_size=8,
            initializer_range=0.5,
        )
    )
    decoder = TrOCRForCausalLM(  # type: ignore[no-untyped-call]
        TrOCRConfig(
            vocab_size=len(WORDS),
            d_model=32,
            decoder_layers=2,
            decoder_attention_heads=2,
            decoder_ffn_dim=32,
            max_position_embeddings=32,
            cross_attention_hidden_size=32,
            init_std=0.5,
            **ENDS,
            decoder_start_token_id=2,
        )
    )
    with torch.no_grad():
        decoder.output_projection.weight[:4] = 0  # so that special tokens hardly ever win
    model: Any = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = 2
    model.config.pad_token_id = model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    images = ViTImageProcessorPil(size={"height": 32, "width": 32})
    processor: Any = TrOCRProcessor(images, tokenizer(chat=False))  # type: ignore[no-untyped-call]
    processor.save_pretrained(folder)
    return folder


def save_recognizer(folder: Path) -> Path:
    """Save a text recognition model that tells `CHARACTERS` apart."""
    torch.manual_seed(0)
    config = PPOCRV5MobileRecConfig(
        backbone_config=_BACKBONE, hidden_size=16, head_out_channels=len(CHARACTERS), num_attention_heads=2
    )
    model: Any = PPOCRV5MobileRecForTextRecognition(config)
    with torch.no_grad():
        for module in model.modules():  # as they are made, every step looks the same to them
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                torch.nn.init.kaiming_normal_(module.weight)
    model.save_pretrained(folder)
    settings = {"size": {"height": 48, "width": 320}, "max_image_width": 960, "character_list": CHARACTERS}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def save_detector(folder: Path) -> Path:
    """Save a text detection model."""
    torch.manual_seed(0)
    backbone = {**_BACKBONE, "block_configs": None, "conv_symmetric_num": 1}
    config = PPOCRV5MobileDetConfig(
        backbone_config=backbone, neck_out_channels=8, reduction=2, layer_list_out_channels=[4, 4, 8, 8]
    )
    PPOCRV5MobileDetForObjectDetection(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"limit_side_len": 320}))
    return folder


def save_page_reader(folder: Path) -> Path:
    """Save a detector and a recognizer in the folders of a page reader."""
    save_detector(folder / "detection")
    save_recognizer(folder / "recognition")
    return folder


def save_layoutlm(folder: Path) -> Path:
    """Save a document question answering model that sees words and their places."""
    torch.manual_seed(0)
    config = LayoutLMConfig(
        vocab_size=len(QUESTION_WORDS),
        num_hidden_layers=2,
        **SMALL,
        max_position_embeddings=WINDOW,
        initializer_range=0.5,
    )
    LayoutLMForQuestionAnswering(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    vocabulary = {word: index for index, word in enumerate(QUESTION_WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=WINDOW,
    ).save_pretrained(folder)
    return folder


def save_layoutlmv3(folder: Path) -> Path:
    """Save a document question answering model that sees the page as well."""
    torch.manual_seed(0)
    letters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefghijklmnopqrstuvwxyz?", "Ġ"]
    config = LayoutLMv3Config(
        vocab_size=len(letters),
        hidden_size=36,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=WINDOW + 2,
        coordinate_size=6,
        shape_size=6,
        input_size=32,
        patch_size=8,
        initializer_range=0.5,
    )
    LayoutLMv3ForQuestionAnswering(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    LayoutLMv3Tokenizer(
        vocab={letter: index for index, letter in enumerate(letters)}, merges=[], model_max_length=WINDOW
    ).save_pretrained(folder)
    LayoutLMv3ImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
