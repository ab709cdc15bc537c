"""Converts PP-OCRv5 mobile, detection and recognition, from ONNX to a folder with one Hugging Face folder each.

Source: https://github.com/PaddlePaddle/PaddleOCR (ppocr/modeling names the layers; ppocr/postprocess the settings)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PPOCRV5MobileDetConfig,
    PPOCRV5MobileDetForObjectDetection,
    PPOCRV5MobileRecConfig,
    PPOCRV5MobileRecForTextRecognition,
)
from transformers.utils import logging as transformers_logging

from deploy.models.from_onnx_weights import GraphWeights, fill_backbone

_BRANCHES = {"conv_symmetric_num": 1}
"""The export has already added up the parallel convolutions of training."""

_RECOGNITION_BLOCKS = [
    [[3, 16, 32, 1, False]],
    [[3, 32, 64, 1, False], [3, 64, 64, 1, False]],
    [[3, 64, 128, [2, 1], False], [3, 128, 128, 1, False]],
    [[3, 128, 256, [1, 2], False], *([[5, 256, 256, 1, False]] * 4)],
    [
        [5, 256, 512, [2, 1], True],
        [5, 512, 512, 1, True],
        [5, 512, 512, [2, 1], False],
        [5, 512, 512, 1, False],
    ],
]
"""Kernel, channels in, channels out, stride and squeeze-excitation of each layer: a line shrinks in height only."""

_DETECTION_SETTINGS = {
    "image_processor_type": "PPOCRV5ServerDetImageProcessor",
    "limit_side_len": 960,
    "limit_type": "max",
    "max_side_limit": 4000,
}
_RECOGNITION_SETTINGS = {
    "image_processor_type": "PPOCRV5ServerRecImageProcessor",
    "size": {"height": 48, "width": 320},
    "max_image_width": 3200,
}


def convert_pp_ocr(detection: Path, recognition: Path, characters: Path, target: Path) -> None:
    """Write `detection/` and `recognition/` into `target`, weights in fp32, each with its preprocessor settings.

    `characters` has a line for every class of the recognizer, the blank first; they go into its settings.

    Raises:
        ValueError: permanent; a graph is another model, or the number of characters does not fit it.
    """
    known = characters.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    detector, recognizer = _detector(detection), _recognizer(recognition)
    if len(known) != recognizer.config.head_out_channels:
        raise ValueError(
            f"{characters.name} has {len(known)} lines; {recognition.name} tells "
            f"{recognizer.config.head_out_channels} characters apart"
        )
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    _save(detector, target / "detection", _DETECTION_SETTINGS)
    _save(recognizer, target / "recognition", {**_RECOGNITION_SETTINGS, "character_list": known})


def _save(model: Any, folder: Path, settings: dict[str, Any]) -> None:
    model.eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(settings, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


def _detector(path: Path) -> Any:
    config = PPOCRV5MobileDetConfig(
        backbone_config={
            "model_type": "pp_lcnet_v3",
            "scale": 0.75,
            "out_features": ["stage2", "stage3", "stage4", "stage5"],
            "out_indices": [2, 3, 4, 5],
            "divisor": 16,
            **_BRANCHES,
        },
        dtype="float32",
    )
    model: Any = PPOCRV5MobileDetForObjectDetection(config)
    weights = GraphWeights(path)
    with torch.no_grad():
        fill_backbone(weights, model.model.backbone.encoder)
        for layer in model.model.layer:
            weights.fill_convolution(layer)
        for stage in (model.model.neck.insert_conv, model.model.neck.input_conv):
            for block in reversed(stage):  # the deepest feature map is worked on first
                weights.fill_convolution(block.in_conv)
                weights.fill_convolution(block.squeeze_excitation_block.conv1)
                weights.fill_convolution(block.squeeze_excitation_block.conv2)
        for layer in (model.head.conv_down, model.head.conv_up):
            weights.fill_convolution(layer.convolution)
            weights.fill_normalization(layer.norm)
        weights.fill_convolution(model.head.conv_final)
    weights.check_all_used()
    return model


def _recognizer(path: Path) -> Any:
    config = PPOCRV5MobileRecConfig(
        backbone_config={
            "model_type": "pp_lcnet_v3",
            "scale": 0.95,
            "block_configs": _RECOGNITION_BLOCKS,
            "out_features": ["stage2", "stage3", "stage4", "stage5"],
            "out_indices": [2, 3, 4, 5],
            "divisor": 16,
            **_BRANCHES,
        },
        dtype="float32",
    )
    model: Any = PPOCRV5MobileRecForTextRecognition(config)
    weights = GraphWeights(path)
    with torch.no_grad():
        fill_backbone(weights, model.model.backbone.encoder)
        encoder = model.head.encoder
        for layer in encoder.conv_block:
            weights.fill_convolution(layer.convolution)
            weights.fill_normalization(layer.normalization)
        for block in encoder.svtr_block:
            weights.fill_layer_norm(block.layer_norm1)
            weights.fill_linear(block.self_attn.qkv)
            weights.fill_linear(block.self_attn.projection)
            weights.fill_layer_norm(block.layer_norm2)
            weights.fill_linear(block.mlp.fc1)
            weights.fill_linear(block.mlp.fc2)
        weights.fill_layer_norm(encoder.norm)
        weights.fill_linear(model.head.head)
    weights.check_all_used()
    return model
