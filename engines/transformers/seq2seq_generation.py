"""text-generation by sequence-to-sequence language models, such as T5 and BART."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from engines.transformers.generation_runner import Prompt
from engines.transformers.row import Row
from engines.transformers.stacking import SOURCE
from engines.transformers.text_generation import TextGenerationRunner
from handlers.errors import InvalidInput, ModelLoadFailed


class Seq2SeqRunner(TextGenerationRunner):
    """Answers prompts that an encoder reads whole; the answer's row begins with the decoder's start token."""

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(name, model, tokenizer)
        config: Any = model.generation_config
        # A row's own budget ends it; this would end all of a batch by the longest budget among them.
        config.forced_eos_token_id = None
        start = config.decoder_start_token_id
        if start is None:
            start = config.bos_token_id
        if not isinstance(start, int):
            raise ModelLoadFailed(f"model {name} does not say its decoder_start_token_id; save it with one")
        self._start = start

    def prompt(self, inputs: dict[str, Any]) -> Prompt:
        """Return the decoder's start token, with what the encoder reads."""
        source = super().prompt(inputs).tokens
        self._check_tokens(source)
        if self.context is not None and len(source) > self.context:
            raise InvalidInput(
                f"the prompt has {len(source)} tokens; model {self.name} reads {self.context}: shorten it"
            )
        return Prompt([self._start], {SOURCE: torch.tensor([source], device=self.model.device)})

    def _result(self, row: Row) -> dict[str, Any]:
        return {**super()._result(row), "prompt_tokens": row.extras[SOURCE].shape[1]}
