"""Trains the tiny vision-language model of this folder: `python -m tests.models.vlm.train FOLDER`.

It learns from drawings that are made as it goes; a few conversations of three questions and answers per step.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tests.models.vlm.drawings import COLORS, COUNTS, QUESTIONS, SHAPES, Drawing, draw

IMAGE_SIZE, PATCH_SIZE = 72, 12
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
HIDDEN, LAYERS, HEADS = 128, 3, 4
TRAINING_SEED, HELD_OUT_SEED = 0, 1_000_003
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
PAD, START, END = 0, 1, 2
IGNORED = -100
"""The label of tokens that are not to be learned."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : "
    "{% if message['content'] is string %}{{ message['content'] }} "
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}</s> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def make_processor() -> LlavaProcessor:
    """Return image processor, tokenizer (the words of all questions and answers) and chat template."""
    normalizer, splitter = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    texts = [question for ways in QUESTIONS.values() for question in ways]
    texts += ["system user assistant :", *COLORS, *COUNTS, *SHAPES, *(f"{shape}s" for shape in SHAPES)]
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text.lower())})
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer, backend.pre_tokenizer = normalizer, splitter
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token="<image>",
        num_additional_image_tokens=1,
    )


def make_model(processor: Any) -> LlavaForConditionalGeneration:
    """Return the model with random weights: a CLIP vision tower and a Llama, 1 million parameters."""
    vision = CLIPVisionConfig(
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
    )
    text = LlamaConfig(
        vocab_size=len(processor.tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=1024,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        image_seq_length=IMAGE_TOKENS,
    )
    model = LlavaForConditionalGeneration(config)
    generation: Any = model.generation_config
    generation.pad_token_id, generation.bos_token_id, generation.eos_token_id = PAD, START, END
    generation.max_new_tokens = 16
    return model


class Conversations:
    """Makes batches of drawings, each with three questions and answers; every one is new."""

    def __init__(self, processor: Any, seed: int) -> None:
        self._tokenizer = processor.tokenizer
        self._mean = np.array(processor.image_processor.image_mean, np.float32)
        self._std = np.array(processor.image_processor.image_std, np.float32)
        self._rng = random.Random(seed)

    def batch(self, size: int) -> dict[str, torch.Tensor]:
        """Return the model's arguments for `size` conversations, labels on the answers alone."""
        drawings = [draw(self._rng, size=self._rng.randint(IMAGE_SIZE, 4 * IMAGE_SIZE)) for _ in range(size)]
        told = [self._conversation(drawing) for drawing in drawings]
        width = max(len(tokens) for tokens, _ in told)
        ids = [tokens + [PAD] * (width - len(tokens)) for tokens, _ in told]
        labels = [known + [IGNORED] * (width - len(known)) for _, known in told]
        return {
            "pixel_values": torch.stack([self._pixels(drawing.image) for drawing in drawings]),
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t, _ in told]),
            "labels": torch.tensor(labels),
        }

    def _conversation(self, drawing: Drawing) -> tuple[list[int], list[int]]:
        tokens: list[int] = []
        labels: list[int] = []
        image = "<image>" * IMAGE_TOKENS
        for kind in self._rng.sample(list(QUESTIONS), 3):
            question = self._tokens(f"user : {image} {self._rng.choice(QUESTIONS[kind])} assistant :")
            answer = [*self._tokens(drawing.answer(kind)), END]
            tokens += question + answer
            labels += [IGNORED] * len(question) + answer
            image = ""
        return tokens, labels

    def _tokens(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def _pixels(self, image: Image.Image) -> torch.Tensor:
        small = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
        scaled = (np.asarray(small, np.float32) / 255 - self._mean) / self._std
        return torch.from_numpy(scaled).permute(2, 0, 1)


def train(model: LlavaForConditionalGeneration, conversations: Conversations, *, steps: int, size: int) -> None:
    """Run `steps` steps of AdamW with warm-up and a cosine to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    warm_up = 80
    model.train()
    began, losses = time.monotonic(), []
    for step in range(1, steps + 1):
        rate = 1e-3 * min(1.0, step / warm_up) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model(**conversations.batch(size)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 50 == 0:
            told = f"step {step} {time.monotonic() - began:.0f} s loss {np.mean(losses[-50:]):.4f}"
            print(told, flush=True)  # noqa: T201
    model.train(False)


@torch.inference_mode()
def held_out_scores(model: Any, processor: Any, *, drawings: int = 240) -> dict[str, float]:
    """Return the share of right answers for each kind of question, about drawings of another seed."""
    rng = random.Random(HELD_OUT_SEED)
    asked = [draw(rng) for _ in range(drawings)]
    scores = {}
    for kind, ways in QUESTIONS.items():
        right = 0
        for start in range(0, drawings, 60):
            some = asked[start : start + 60]
            prompts = [
                processor.apply_chat_template(
                    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
                    add_generation_prompt=True,
                )
                for text in (rng.choice(ways) for _ in some)
            ]
            inputs = processor(
                images=[[drawing.image] for drawing in some],
                text=prompts,
                padding=True,
                return_tensors="pt",
            )
            tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
            answers = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            right += sum(text.strip() == one.answer(kind) for text, one in zip(answers, some, strict=True))
        scores[kind] = right / drawings
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(TRAINING_SEED)
    processor = make_processor()
    model = make_model(processor)
    train(model, Conversations(processor, TRAINING_SEED), steps=arguments.steps, size=arguments.batch)
    model.to(torch.float16).save_pretrained(arguments.folder)  # type: ignore[arg-type]
    processor.save_pretrained(arguments.folder)
    saved = LlavaForConditionalGeneration.from_pretrained(arguments.folder, dtype=torch.float32)
    for kind, score in held_out_scores(saved.train(False), processor).items():
        print(f"{kind}: {score:.1%} of held-out questions right")  # noqa: T201


if __name__ == "__main__":
    main()
