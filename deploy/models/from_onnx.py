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

from deploy.models.from_onnx_weights import GraphWeights

_BACKBONE = {
    "model_type": "pp_lcnet_v3",
    "out_features": ["stage2", "stage3", "stage4", "stage5"],
    "out_indices": [2, 3, 4, 5],
    "divisor": 16,
    "conv_symmetric_num": 1,  # the export has already added up the parallel convolutions of training
}

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


def convert_pp_ocr(target: Path, *, detection: Path, recognition: Path, characters: Path) -> None:
    """Write `detection/` and `recognition/` into `target`, weights in fp32, each with its preprocessor settings.

    `characters` has a line for every class of the recognizer, the blank first; they are written to its settings.

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
    config = PPOCRV5MobileDetConfig(backbone_config={**_BACKBONE, "scale": 0.75}, dtype="float32")
    model: Any = PPOCRV5MobileDetForObjectDetection(config)
    neck = model.model.neck
    # The deepest feature map is processed first.
    stages = (*reversed(neck.insert_conv), *reversed(neck.input_conv))
    return _filled(model, path, model.model.backbone.encoder, model.model.layer, *stages, model.head)


def _recognizer(path: Path) -> Any:
    backbone = {**_BACKBONE, "scale": 0.95, "block_configs": _RECOGNITION_BLOCKS}
    config = PPOCRV5MobileRecConfig(backbone_config=backbone, dtype="float32")
    model: Any = PPOCRV5MobileRecForTextRecognition(config)
    return _filled(model, path, model.model.backbone.encoder, model.head)


def _filled(model: Any, path: Path, *parts: Any) -> Any:
    """Return `model` with the graph's weights; `parts` are its modules with weights, as the graph runs them."""
    weights = GraphWeights(path)
    with torch.no_grad():
        for part in parts:
            weights.fill(part)
    weights.check_all_used()
    return model
