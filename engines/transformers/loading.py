"""Loads the parts of a model from its folder: locally, safely and of the right kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoFeatureExtractor, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from engines.config.settings import TransformersSettings
from engines.models.registration import ADAPTER, is_adapter
from engines.transformers.packed_weights import pack_weights
from engines.transformers.process_state import loading
from handlers.errors import ModelLoadFailed
from handlers.logger import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model's folder and the rules for loading it; nothing is fetched from elsewhere."""

    name: str
    path: Path
    device: torch.device
    dtype: torch.dtype
    settings: TransformersSettings

    def auto_class(self, *candidates: str) -> str | None:
        """Return the first of the Auto classes `candidates` that loads this model; reads no weights.

        Raises:
            ModelLoadFailed: permanent; it has its own code, or weights that are not safetensors.
        """
        config = self._config()
        found = next((one for one in candidates if self._fits(config, one)), None)
        if found is not None:
            self._check_weights()
        return found

    def refused(self, *candidates: str, needs: str) -> ModelLoadFailed:
        """Return the error of a model that none of `candidates` loads; `needs` describes them."""
        config = self._config()
        kind = " or ".join(config.architectures or ()) or f"model of type {config.model_type}"
        return ModelLoadFailed(
            f"model {self.name} is a {kind}; this task needs {needs} ({' or '.join(dict.fromkeys(candidates))})"
        )

    def model(self, auto_class: str, *, needs: str) -> PreTrainedModel:
        """Return the model on its device, in evaluation mode.

        Raises:
            ModelLoadFailed: permanent; the model is not an `auto_class` (which the message describes as `needs`), has
                its own code, weights that are not safetensors, or weights that are missing.
        """
        if self.auto_class(auto_class) is None:
            raise self.refused(auto_class, needs=needs)
        with self._loading():
            model, missing = self._weights(getattr(transformers, auto_class))
            if missing:
                # Code that loaded at the same time, without the lock, may be done by now.
                log.warning("weights_missing", model=self.name, missing=missing[:3], then="loaded once more")
                del model
                model, missing = self._weights(getattr(transformers, auto_class))
        if missing:
            shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            raise ModelLoadFailed(f"model {self.name} lacks weights: {shown}; register a complete model")
        loaded: PreTrainedModel = model.to(self.device).eval()
        pack_weights(loaded)
        return loaded

    def tokenizer(self) -> Any:
        """Return the tokenizer beside the model."""
        return self._part(AutoTokenizer)

    def feature_extractor(self) -> Any:
        """Return the feature extractor beside the model."""
        return self._part(AutoFeatureExtractor)

    def image_processor(self) -> Any:
        """Return the image processor beside the model, also for frames of a video.

        Raises:
            ModelLoadFailed: permanent; the folder has none.
        """
        # The public name of this class requires torchvision; this one works with Pillow.
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        return self._saved(AutoImageProcessor, "image processor (preprocessor_config.json)")

    def processor(self) -> Any:
        """Return the processor beside the model: tokenizer and image processor together.

        Raises:
            ModelLoadFailed: permanent; the folder lacks one of the two.
        """
        from transformers import AutoProcessor

        processor = self._saved(AutoProcessor, "whole processor")
        for part in ("tokenizer", "image_processor"):
            if not hasattr(processor, part):
                raise self._lacks(part)
        return processor

    @property
    def model_type(self) -> str:
        """The kind of model that its configuration names, in transformers' words."""
        return str(self._config().model_type)

    def _config(self) -> PreTrainedConfig:
        if is_adapter({path.name for path in self.path.iterdir()}):
            raise ModelLoadFailed(f"model {self.name} {ADAPTER}")
        if not (self.path / "config.json").is_file():
            raise ModelLoadFailed(f"model {self.name} has no config.json; register a folder saved by save_pretrained")
        config: PreTrainedConfig = self._part(AutoConfig)
        return config

    def _part(self, auto_class: Any, **more: Any) -> Any:
        """Return what the Auto class loads from this folder."""
        with self._loading():
            return auto_class.from_pretrained(
                self.path, local_files_only=True, trust_remote_code=self.settings.trust_remote_code, **more
            )

    def _saved(self, auto_class: Any, what: str) -> Any:
        try:
            return self._part(auto_class)
        except OSError as error:  # how transformers says that a file is missing
            raise self._lacks(what) from error

    def _lacks(self, what: str) -> ModelLoadFailed:
        way_out = "register a folder to which its processor was saved, as save_pretrained does"
        return ModelLoadFailed(f"model {self.name} has no {what}; {way_out}")

    def _weights(self, auto_class: Any) -> tuple[Any, list[str]]:
        """Return the model, and the names of weights that its files lack."""
        model, report = self._part(
            auto_class,
            dtype=self.dtype,
            use_safetensors=None if self.settings.allow_pickle else True,
            output_loading_info=True,
        )
        return model, sorted(report["missing_keys"])

    def _fits(self, config: PreTrainedConfig, auto_class: str) -> bool:
        # Model types and the names of their classes: the classes themselves would be imported.
        models: dict[str, Any] = getattr(modeling_auto, auto_class)._model_mapping._model_mapping
        fitting = models.get(config.model_type, ())
        names = (fitting,) if isinstance(fitting, str) else tuple(fitting)
        declared = tuple(config.architectures or ())
        if set(declared) & set(names) if declared else names:
            return True
        return self.settings.trust_remote_code and auto_class in getattr(config, "auto_map", {})

    @contextmanager
    def _loading(self) -> Iterator[None]:
        """Load a part by transformers, while no other load runs. If it needs the model's own code, the error names
        the setting that allows it."""
        try:
            with loading():
                yield
        except ValueError as error:
            if self.settings.trust_remote_code or "trust_remote_code" not in str(error):
                raise
            code = ", ".join(sorted(file.name for file in self.path.glob("*.py"))) or "code of its own"
            raise ModelLoadFailed(
                f"model {self.name} ships Python code ({code}), which is not run; use a model of a class that "
                "transformers has, or set transformers.trust_remote_code if you trust its author"
            ) from error

    def _check_weights(self) -> None:
        if self.settings.allow_pickle or any(self.path.glob("*.safetensors")):
            return
        found = ", ".join(sorted(file.name for file in self.path.iterdir())[:8]) or "an empty folder"
        raise ModelLoadFailed(
            f"model {self.name} has no *.safetensors weights (found {found}); save it again with "
            "save_pretrained, or set transformers.allow_pickle if you trust its author"
        )


_FLOATS = ("F64", "F32", "F16", "BF16")
"""Number formats that are converted to the format of the model when it is loaded."""

_BYTES_OF_OTHERS = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}
"""Number formats that are not converted; those not in it take one byte."""


def bytes_in_memory(folder: Path, bytes_of_a_float: int) -> int | None:
    """Return the bytes of the safetensors in `folder` and in its `detection/` and `recognition/` once loaded. An
    estimate: weights may be converted or left out while they are loaded. None where there are no safetensors, or one
    file is not whole: the load then reports the error, and evicts no models for a size that is only claimed."""
    from huggingface_hub import errors, get_local_safetensors_metadata
    from safetensors import SafetensorError, safe_open

    unreadable = (errors.SafetensorsParsingError, SafetensorError, OSError, ValueError, RecursionError)
    sizes = _BYTES_OF_OTHERS | dict.fromkeys(_FLOATS, bytes_of_a_float)
    total = 0
    try:
        for part in (folder, folder / "detection", folder / "recognition"):
            with suppress(errors.NotASafetensorsRepoError, FileNotFoundError):
                found = get_local_safetensors_metadata(part)
                for name in found.files_metadata:
                    with safe_open(part / name, framework="numpy"):
                        pass  # checks that the weights are there; the metadata only claim sizes
                total += sum(sizes.get(kind, 1) * count for kind, count in found.parameter_count.items())
    except (*unreadable, AttributeError, TypeError):  # an index may hold any JSON
        return None
    return total or None
