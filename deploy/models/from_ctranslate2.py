"""Converts a Whisper model from CTranslate2's model.bin to a Hugging Face folder.

Source: https://github.com/OpenNMT/CTranslate2 (python/ctranslate2/specs/model_spec.py writes the format)
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.utils import logging as transformers_logging

Array = np.ndarray[Any, Any]

_ELEMENT_TYPES: dict[int, Any] = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_SMALLEST_MULTILINGUAL_VOCABULARY = 51_865
_WEIGHTS = re.compile("(encoder|decoder)/(?:layer_([0-9]+)/)?(.+)/(weight|bias|gamma|beta|encodings)")
_MODULES = {
    "conv1": ["conv1"],
    "conv2": ["conv2"],
    "embeddings": ["embed_tokens"],
    "position_encodings": ["embed_positions"],
    "layer_norm": ["layer_norm"],
    "self_attention/layer_norm": ["self_attn_layer_norm"],
    "self_attention/linear_0": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "self_attention/linear_1": ["self_attn.out_proj"],
    "attention/layer_norm": ["encoder_attn_layer_norm"],
    "attention/linear_0": ["encoder_attn.q_proj"],
    "attention/linear_1": ["encoder_attn.k_proj", "encoder_attn.v_proj"],
    "attention/linear_2": ["encoder_attn.out_proj"],
    "ffn/layer_norm": ["final_layer_norm"],
    "ffn/linear_0": ["fc1"],
    "ffn/linear_1": ["fc2"],
}
"""The modules here and there: CTranslate2 keeps projections that share an input as one matrix."""
_KINDS = {"gamma": "weight", "beta": "bias", "encodings": "weight"}
"""Its names of weights that have other ones there."""


def convert_whisper(target: Path, *, weights: Path, config: Path, tokenizer: Path) -> None:
    """Write model, tokenizer, feature extractor and generation settings into `target`, weights in fp32.

    `config` and `tokenizer` are the config.json and tokenizer.json that lie beside CTranslate2's model.bin.

    Raises:
        ValueError: permanent; not a Whisper, or tensors missing.
    """
    variables = read_variables(weights)
    model = WhisperForConditionalGeneration(_model_config(variables))
    missing, unexpected = model.load_state_dict(_state_dict(variables), strict=False)
    if unexpected or set(missing) - {"proj_out.weight"}:
        raise ValueError(f"{weights.name}: tensors missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    roles: Any = dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), "<|endoftext|>")
    words = WhisperTokenizer(tokenizer_file=str(tokenizer), **roles)
    model.generation_config = _generation_config(model.config, json.loads(config.read_text()), words.get_vocab())
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model.save_pretrained(target)
    extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)  # type: ignore[no-untyped-call]
    WhisperProcessor(extractor, words).save_pretrained(target)  # type: ignore[no-untyped-call]


def read_variables(path: Path) -> dict[str, Array]:
    """Return the arrays of a CTranslate2 model file by name; one of another kind raises ValueError (permanent)."""
    with path.open("rb") as file:
        _version = _read(file, "I")
        if (kind := _read_name(file)) != "WhisperSpec":
            raise ValueError(f"{path.name} holds a {kind}, not a WhisperSpec")
        _revision = _read(file, "I")
        variables = {}
        for _ in range(_read(file, "I")):
            name = _read_name(file)
            shape = [_read(file, "I") for _ in range(_read(file, "B"))]
            element_type = _ELEMENT_TYPES[_read(file, "B")]
            variables[name] = np.frombuffer(file.read(_read(file, "I")), element_type).reshape(shape)
    return variables


def _read(file: BinaryIO, kind: str) -> int:
    layout = struct.Struct(f"<{kind}")
    return int(layout.unpack(file.read(layout.size))[0])


def _read_name(file: BinaryIO) -> str:
    return file.read(_read(file, "H")).rstrip(b"\0").decode()


def _model_config(variables: Mapping[str, Array]) -> WhisperConfig:
    vocabulary, width = variables["decoder/embeddings/weight"].shape
    end_of_text = 50_257 if vocabulary >= _SMALLEST_MULTILINGUAL_VOCABULARY else 50_256
    heads = int(variables["encoder/num_heads"])
    return WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=variables["encoder/conv1/weight"].shape[1],
        d_model=width,
        encoder_layers=_layers(variables, "encoder"),
        decoder_layers=_layers(variables, "decoder"),
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
        decoder_start_token_id=end_of_text + 1,
        dtype="float32",
    )


def _layers(variables: Mapping[str, Array], side: str) -> int:
    return sum(name.startswith(f"{side}/layer_") and name.endswith("/ffn/linear_0/weight") for name in variables)


def _state_dict(variables: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    """Return the weights under transformers' names."""
    weights = {}
    for variable in variables:
        found = _WEIGHTS.fullmatch(variable)
        if found is None or found[3] not in _MODULES:
            continue  # a setting, a scale, or the projection to words, which is that of the embeddings
        side, layer, module, kind = found.groups()
        within = f"model.{side}" if layer is None else f"model.{side}.layers.{layer}"
        names = _MODULES[module]
        for name, part in zip(names, _dense(variables, variable).chunk(len(names)), strict=True):
            weights[f"{within}.{name}.{_KINDS.get(kind, kind)}"] = part.clone()
    # Whisper's keys have no bias: zeros stand there.
    return {name: values for name, values in weights.items() if not name.endswith("k_proj.bias")}


def _dense(variables: Mapping[str, Array], name: str) -> torch.Tensor:
    """Return one array in fp32; an int8 array is divided by its scale, one number per row."""
    values: Array = variables[name].astype(np.float32)
    if (scale := variables.get(f"{name}_scale")) is not None:
        values = values / scale.reshape(-1, *[1] * (values.ndim - 1))
    return torch.from_numpy(values)


def _generation_config(
    model: WhisperConfig, converted: Mapping[str, Any], vocabulary: Mapping[str, int]
) -> GenerationConfig:
    """Return OpenAI's decoding rules; `converted` is CTranslate2's config.json, which kept most of them."""
    multilingual = model.vocab_size >= _SMALLEST_MULTILINGUAL_VOCABULARY
    rules: dict[str, Any] = {
        "begin_suppress_tokens": converted["suppress_ids_begin"],
        "suppress_tokens": converted["suppress_ids"],
        "alignment_heads": converted["alignment_heads"],
        "no_timestamps_token_id": vocabulary["<|notimestamps|>"],
        "prev_sot_token_id": vocabulary["<|startofprev|>"],
        "max_initial_timestamp_index": 50,
        "max_length": model.max_target_positions,
        "return_timestamps": False,
        "is_multilingual": multilingual,
    }
    for role in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        rules[role] = getattr(model, role)
    if multilingual:
        languages = set(converted["lang_ids"])
        rules["lang_to_id"] = {token: number for token, number in vocabulary.items() if number in languages}
        rules["task_to_id"] = {task: vocabulary[f"<|{task}|>"] for task in ("transcribe", "translate")}
        # Without a task the prompt ends after the detected language and the decoder rambles. The language
        # stays open: it is detected unless the caller names it.
        rules["task"] = "transcribe"
    return GenerationConfig(**rules)  # type: ignore[no-untyped-call]
