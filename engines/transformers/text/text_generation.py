"""text-generation by causal and by sequence-to-sequence language models."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from engines.transformers.generation.batch_generation import SOURCE
from engines.transformers.generation.runner import GenerationRunner, Prompt, decoder_start
from engines.transformers.generation.token_sequence import TokenSequence
from engines.transformers.loading import ModelFolder
from handlers.errors import InvalidInput


class TextGenerationRunner(GenerationRunner):
    """Continues prompts and conversations."""

    kinds: ClassVar[tuple[str, ...]] = ("AutoModelForCausalLM",)
    needs = "a language model"
    parts = (ModelFolder.tokenizer,)

    def prompt(self, inputs: dict[str, Any]) -> Prompt:
        """Return the tokens of the prompt, through the chat template where the tokenizer has one."""
        messages = inputs.get("messages")
        if self.tokenizer.chat_template is None:
            if messages is not None:
                raise InvalidInput(
                    f"data.messages needs a chat template, which model {self.name} lacks; send data.inputs"
                )
            encoded: Any = self.tokenizer(inputs["inputs"])
        else:
            messages = messages or [{"role": "user", "content": inputs["inputs"]}]
            try:
                encoded = self.tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, return_dict=True
                )
            except TemplateError as error:
                raise InvalidInput(f"data.messages does not suit model {self.name}: {error}") from error
        tokens: list[int] = encoded["input_ids"]
        if not tokens:
            raise InvalidInput(f"data.inputs has no token that model {self.name} knows; send some text")
        return Prompt(tokens)


class Seq2SeqRunner(TextGenerationRunner):
    """Answers prompts that an encoder reads, as with T5 and BART; the row begins with the decoder's start token."""

    kinds = ("AutoModelForSeq2SeqLM",)

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(name, model, tokenizer)
        config: Any = model.generation_config
        # A row's own budget ends it; this would end all of a batch by the longest budget among them.
        config.forced_eos_token_id = None
        self._start = decoder_start(name, config.decoder_start_token_id, config.bos_token_id)

    def prompt(self, inputs: dict[str, Any]) -> Prompt:
        """Return the decoder's start token, with the encoder's input."""
        source = super().prompt(inputs).tokens
        self._check_tokens(source)
        if self.context is not None and len(source) > self.context:
            raise InvalidInput(
                f"the prompt has {len(source)} tokens; model {self.name} reads {self.context}: shorten it"
            )
        return Prompt([self._start], {SOURCE: torch.tensor([source], device=self.model.device)})

    def _result(self, sequence: TokenSequence) -> dict[str, Any]:
        return {**super()._result(sequence), "prompt_tokens": sequence.extras[SOURCE].shape[1]}
