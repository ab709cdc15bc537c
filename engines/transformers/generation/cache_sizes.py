"""The size of the attention cache of a row, measured on the model, and the limits of a model's batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from engines.config.settings import TransformersSettings
from engines.transformers.process_state import running
from handlers.logger import get_logger

log = get_logger(__name__)

_TOKENS = 2
"""Number of tokens of the run that measures the cache."""


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """Bytes of cache by the tokens that a row has seen."""

    of_a_token: int
    """In all layers that keep every token, together."""
    of_windows: tuple[tuple[int, int], ...] = ()
    """For each layer with a sliding window: bytes per token, and how many tokens it keeps."""
    of_a_row: int = 0
    """In all layers with a state of fixed size, together."""

    def of(self, tokens: int) -> int:
        windows = sum(size * min(tokens, most) for size, most in self.of_windows)
        return self.of_a_token * tokens + windows + self.of_a_row

    @classmethod
    def of_model(cls, model: PreTrainedModel) -> CacheSizes:
        """Return the sizes, measured by a run over two tokens; an estimate where that fails."""
        if not model.config.is_encoder_decoder:
            ids = torch.zeros((1, _TOKENS), dtype=torch.long, device=model.device)
            try:
                with running(), torch.inference_mode():
                    output: Any = model(input_ids=ids, use_cache=True)
                return cls._held(output.past_key_values)
            # Requests may still work: this run has only tokens as input.
            except Exception as error:  # noqa: BLE001
                log.info("cache_sizes_estimated", model=type(model).__name__, error=repr(error))
        return cls(bytes_of_a_token(model.config, model.dtype))

    @classmethod
    def _held(cls, cache: Any) -> CacheSizes:
        of_a_token, of_a_row, windows = 0, 0, []
        for layer in cache.layers:
            size = sum(tensor.nbytes for tensor in _tensors(layer, "keys", "values")) // _TOKENS
            if getattr(layer, "is_sliding", False):
                windows.append((size, layer.sliding_window))
            else:
                of_a_token += size
            of_a_row += sum(tensor.nbytes for tensor in _tensors(layer, "conv_states", "recurrent_states"))
        return cls(of_a_token or (0 if windows else 1), tuple(windows), of_a_row)


def bytes_of_a_token(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Return the bytes of a token if all layers keep keys and values of all heads, 1 if none attends."""
    text: Any = config.get_text_config(decoder=True)
    if not (heads := getattr(text, "num_attention_heads", None)):
        return 1
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    heads = getattr(text, "num_key_value_heads", None) or heads
    return int(2 * text.num_hidden_layers * heads * size * dtype.itemsize)


def _tensors(layer: Any, *names: str) -> Iterator[torch.Tensor]:
    for name in names:
        held = getattr(layer, name, None)
        # Keys are a tensor; the states of recurrent layers are several, by their numbers.
        parts = held.values() if isinstance(held, dict) else held if isinstance(held, list) else [held]
        yield from (part for part in parts if isinstance(part, torch.Tensor))


_GPU_SHARE = 1 / 20
"""The share of a GPU's memory for the cache of one model's texts where no setting says otherwise."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a batch: rows, bytes of cache, prompt tokens between two steps, and the share of padding in
    those.

    On a GPU a step of 256 rows takes about as long as one of 8, and 4096 prompt tokens as long as 256: the number of
    calls counts. `docs/decisions/gpu.md` has the figures.
    """

    max_rows: int
    max_bytes: int
    prefill_tokens: int
    padding_share: float = 0.25

    @classmethod
    def of(cls, settings: TransformersSettings, device: torch.device) -> Self:
        own = cls(32, 2**30, 256)
        if device.type == "cuda":
            memory = torch.cuda.get_device_properties(device).total_memory
            own = cls(256, max(2**30, int(memory * _GPU_SHARE)), 4096, padding_share=0.9)
        return cls(
            settings.max_rows or own.max_rows,
            settings.kv_cache_bytes or own.max_bytes,
            settings.prefill_tokens or own.prefill_tokens,
            own.padding_share,
        )
