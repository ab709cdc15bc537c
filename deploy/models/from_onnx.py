"""Converts PP-OCRv5 mobile, detection and recognition, from ONNX to a folder with one Hugging Face folder each.

Source: https://github.com/PaddlePaddle/PaddleOCR (ppocr/modeling names the layers; ppocr/postprocess the settings);
https://github.com/PaddlePaddle/Paddle2ONNX; https://arxiv.org/abs/2101.03697 (re-parameterised branches)
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from transformers import (
    PPOCRV5MobileDetConfig,
    PPOCRV5MobileDetForObjectDetection,
    PPOCRV5MobileRecConfig,
    PPOCRV5MobileRecForTextRecognition,
)
from transformers.utils import logging as transformers_logging

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


_KINDS = {
    "Conv": "convolution",
    "ConvTranspose": "convolution",
    "BatchNormalization": "batch normalization",
    "MatMul": "matrix",
}
_KINDS_BY_NAME = {"learnable_affine": "affine", "linear_": "vector", "helper.reshape": "layer normalization"}
"""Kinds of weights, by the operator that uses them, and of additions and multiplications by how the name begins."""


class GraphWeights:
    """Fills modules with the weights of a Paddle2ONNX graph, from one queue per kind: within a kind, nodes are in the
    modules' order."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._queues: dict[str, deque[list[torch.Tensor]]] = defaultdict(deque)
        graph = onnx.load(path).graph
        constants = {tensor.name: tensor for tensor in graph.initializer}
        same: dict[str, str] = {}
        for node in graph.node:
            if node.op_type == "Identity":
                same[node.output[0]] = same.get(node.input[0], node.input[0])
                continue
            names = [same.get(name, name) for name in node.input]
            used = {name: constants[name] for name in names if name in constants}
            if kind := _kind(node.op_type, used):
                self._queues[kind].append(
                    [torch.from_numpy(numpy_helper.to_array(one).copy()).float() for one in used.values()]
                )

    def fill(self, module: Any) -> None:
        """Fill a module of any kind; weights of the graph that do not fit raise ValueError (permanent)."""
        match module:
            case torch.nn.Conv2d() | torch.nn.ConvTranspose2d():
                self._put(module.weight, *self._take("convolution"))
                if module.bias is not None:  # a separate addition in the graph
                    self._put(module.bias, self._take("bias")[0].flatten())
            case torch.nn.BatchNorm2d():
                into: Any = (module.weight, module.bias, module.running_mean, module.running_var)
                for parameter, values in zip(into, self._take("batch normalization"), strict=True):
                    self._put(parameter, values)
            case torch.nn.LayerNorm():
                self._put(module.weight, *self._take("layer normalization"))
                self._put(module.bias, *self._take("layer normalization"))
            case torch.nn.Linear():
                self._put(module.weight, self._take("matrix")[0].T)
                self._put(module.bias, *self._take("vector"))
            case object(conv_symmetric=_):
                self._fill_branches(module)
            case _:
                for part in module.children():
                    self.fill(part)

    def check_all_used(self) -> None:
        """Raise ValueError (permanent) where weights are left over: the graph is another model."""
        left = {kind: len(queue) for kind, queue in self._queues.items() if queue}
        if left:
            raise ValueError(f"{self._name} has weights that no layer takes: {left}; it is another model")

    def _fill_branches(self, layer: Any) -> None:
        """Fill a layer of parallel branches so that the first does the whole work and the others add nothing.

        The export added up the branches into one convolution with a bias.
        """
        [main] = layer.conv_symmetric
        self._put(main.convolution.weight, *self._take("convolution"))
        _pass_on(main.normalization, scale=1.0)
        self._put(main.normalization.bias, self._take("bias")[0].flatten())
        if layer.conv_small_symmetric is not None:
            layer.conv_small_symmetric.convolution.weight.zero_()
            _pass_on(layer.conv_small_symmetric.normalization, scale=0.0)
        if layer.identity is not None:
            _pass_on(layer.identity, scale=0.0)
        self._fill_affine(layer.lab)
        if layer.stride != 2:  # else transformers leaves the activation out, and Paddle does not export it
            self._fill_affine(layer.act.lab)

    def _fill_affine(self, module: Any) -> None:
        self._put(module.scale, *self._take("affine"))
        self._put(module.bias, *self._take("affine"))

    def _take(self, kind: str) -> list[torch.Tensor]:
        if not self._queues[kind]:
            raise ValueError(f"{self._name} has too few weights of kind {kind}; it is another model")
        return self._queues[kind].popleft()

    def _put(self, parameter: torch.Tensor, values: torch.Tensor) -> None:
        if parameter.shape != values.shape:
            raise ValueError(
                f"{self._name} has weights of shape {tuple(values.shape)} where {tuple(parameter.shape)} belong"
            )
        parameter.copy_(values)


def _kind(operator: str, used: Mapping[str, onnx.TensorProto]) -> str | None:
    """Return the kind of weights a node uses, None where its constants are not weights (shapes, exponents)."""
    if not used:
        return None
    if operator not in ("Add", "Mul"):
        return _KINDS.get(operator)
    [name] = used
    for prefix, kind in _KINDS_BY_NAME.items():
        if name.startswith(prefix):
            return kind
    return "bias" if operator == "Add" and len(used[name].dims) == 4 else None


def _pass_on(normalization: Any, *, scale: float) -> None:
    """Make a batch normalization multiply by exactly `scale` and add nothing."""
    normalization.weight.fill_(scale)
    normalization.bias.zero_()
    normalization.running_mean.zero_()
    normalization.running_var.fill_(1.0 - normalization.eps)
