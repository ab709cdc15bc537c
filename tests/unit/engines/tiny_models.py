"""Models with random weights and a vocabulary of a few words, saved as real ones are: for shapes, not for sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "USER", "ASSISTANT", *"abcdefghijklmnopqrstuvwxyz"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ message['role'].upper() }} {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT{% endif %}"
)
CONTEXT = 64
ENDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
"""What most kinds of encoders are made of."""


def tokenizer(*, chat: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows `WORDS`, split at spaces."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    if chat:
        made.chat_template = CHAT_TEMPLATE
    return made


def save_llama(folder: Path, *, chat: bool = True, tied: bool = False, positions: int = CONTEXT) -> Path:
    """Save a causal language model, the weights of its ends `tied` or not; return its folder."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.5,
        tie_word_embeddings=tied,
        **ENDS,
    )
    model = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        model.lm_head.weight[:4] = 0  # so that special tokens hardly ever win
    return saved(model, folder, chat=chat)


def saved(model: Any, folder: Path, *, chat: bool = False) -> Path:
    """Save `model` and the tokenizer, and return its folder."""
    model.save_pretrained(folder)
    tokenizer(chat=chat).save_pretrained(folder)
    return folder


def save_classifier(folder: Path) -> Path:
    """Save a model of a kind no text can be generated with, and return its folder."""
    config = BertConfig(vocab_size=len(WORDS), num_hidden_layers=1, **SMALL)
    return saved(BertForSequenceClassification(config), folder)  # type: ignore[no-untyped-call]


def save_wav2vec2(folder: Path, *, norm: str = "layer") -> Path:
    """Save a CTC speech model of a frame each 20 ms, which spells noise, and return its folder."""
    torch.manual_seed(0)
    vocabulary = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGH"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    config = Wav2Vec2Config(
        vocab_size=len(vocabulary),
        num_hidden_layers=1,
        **SMALL,
        conv_dim=(16,) * 7,
        feat_extract_norm=norm,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    model = Wav2Vec2ForCTC(config)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=3.0)
        model.lm_head.weight[1:4] = 0  # special tokens are never heard
        model.lm_head.weight[0] *= 1.5  # and between letters, often nothing
    model.save_pretrained(folder)
    letters = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))  # type: ignore[no-untyped-call]
    letters.save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer")  # type: ignore[no-untyped-call]
    extractor.save_pretrained(folder)
    return folder


def save_t5(folder: Path) -> Path:
    """Save a sequence-to-sequence language model, and return its folder."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(WORDS),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=2,
        initializer_factor=3.0,
    )
    config.decoder_start_token_id, config.tie_word_embeddings = 0, False
    return _save_seq2seq(T5ForConditionalGeneration(config), folder)


def save_bart(folder: Path) -> Path:
    """Save a sequence-to-sequence language model of `CONTEXT` positions, and return its folder."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(WORDS),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=CONTEXT,
        **ENDS,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
        init_std=0.1,
    )
    config.tie_word_embeddings = False
    model = BartForConditionalGeneration(config)
    with torch.no_grad():
        for weight in (weight for weight in model.model.parameters() if weight.dim() == 2):
            weight.mul_(3)
        for layer in model.model.decoder.layers:  # so that what is read shows in what is written
            layer.encoder_attn.out_proj.weight.mul_(3)
    return _save_seq2seq(model, folder)


def _save_seq2seq(model: Any, folder: Path) -> Path:
    with torch.no_grad():
        model.lm_head.weight.normal_(std=1.0)
        model.lm_head.weight[:4] = 0
    return saved(model, folder)
