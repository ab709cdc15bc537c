"""Converts SmolLM2 from GGUF, llama.cpp's format, to a Hugging Face folder.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.utils import logging as transformers_logging

_CONTROL_TOKEN = 3  # the token type that GGUF gives to <|im_start|> and the like


def convert_llama(target: Path, *, weights: Path) -> None:
    """Write the model, its tokenizer and its generation settings into the folder `target`, weights in fp32."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    fields: dict[str, Any] = load_gguf_checkpoint(str(weights))  # type: ignore[no-untyped-call]
    described = fields["config"]
    for of_the_file in ("_model_name_or_path", "unk_token_id"):
        del described[of_the_file]
    # GGUF keeps it as a 32-bit float: 1e-5 reads 9.999999747378752e-06.
    described["rms_norm_eps"] = float(f"{described['rms_norm_eps']:.6g}")
    config = LlamaConfig(**described, dtype="float32")
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar, which no setting turns off
        loaded = load_gguf_checkpoint(  # type: ignore[no-untyped-call]
            str(weights), return_tensors=True, model_to_load=model
        )
    model.load_state_dict(loaded["tensors"], strict=False, assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(target)
    tokenizer = _tokenizer(fields["tokenizer"], config)
    tokenizer.chat_template = fields["tokenizer_config"]["chat_template"]
    tokenizer.save_pretrained(target)


def _tokenizer(fields: dict[str, Any], config: LlamaConfig) -> PreTrainedTokenizerFast:
    """Return what GGUF calls "smollm": each digit is a token, the rest is split into words as GPT-2 does.

    The one that transformers makes of this file leaves digits together.
    """
    tokens = fields["tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["merges"]]
    backend = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, fields["token_type"], strict=True) if kind == _CONTROL_TOKEN]
    backend.add_special_tokens(control)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        **{f"{kind}_token": tokens[fields[f"{kind}_token_id"]] for kind in ("bos", "eos", "unk", "pad")},
        model_max_length=config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
    )
