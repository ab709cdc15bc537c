"""Trains the tiny audio classifier of this folder: `python -m tests.models.audio.train FOLDER`."""

from __future__ import annotations

import argparse
import itertools
import os
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

from tests.models.audio.sounds import HELD_OUT_SEED, KINDS, RATE, TRAINING_SEED, Sounds

MEL_BINS, FRAMES = 64, 100
"""The model hears the first second: 100 frames of 10 ms."""


def fitted_extractor(sounds: list[torch.Tensor]) -> ASTFeatureExtractor:
    """Return a feature extractor with the mean and standard deviation of `sounds`."""
    plain = ASTFeatureExtractor(num_mel_bins=MEL_BINS, max_length=FRAMES, do_normalize=False)  # type: ignore[no-untyped-call]
    features = features_of(sounds, plain)
    return ASTFeatureExtractor(  # type: ignore[no-untyped-call]
        num_mel_bins=MEL_BINS, max_length=FRAMES, mean=features.mean().item(), std=features.std().item()
    )


def features_of(sounds: list[torch.Tensor], extractor: ASTFeatureExtractor) -> torch.Tensor:
    """Return the features of `sounds`, (sounds, frames, mel bins)."""
    made = [extractor(sound.numpy(), sampling_rate=RATE, return_tensors="pt") for sound in sounds]
    return torch.cat([one["input_values"] for one in made])


def untrained() -> ASTForAudioClassification:
    config = ASTConfig(
        num_mel_bins=MEL_BINS,
        max_length=FRAMES,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=192,
        id2label=dict(enumerate(KINDS)),
        label2id={kind: index for index, kind in enumerate(KINDS)},
    )
    return ASTForAudioClassification(config)


def train(model: ASTForAudioClassification, features: torch.Tensor, labels: torch.Tensor, *, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.5e-3, total_steps=steps)
    started = time.monotonic()
    model.train()
    for step in range(1, steps + 1):
        chosen = torch.randint(0, len(labels), (32,))
        loss = model(input_values=features[chosen], labels=labels[chosen]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", flush=True)  # noqa: T201
    model.eval()  # type: ignore[no-untyped-call]


def accuracy(model: ASTForAudioClassification, features: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.inference_mode():
        return float((model(input_values=features).logits.argmax(-1) == labels).float().mean())


def examples(seed: int, count: int, *, held_out: bool) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return `count` sounds, of each kind in turn, and their labels."""
    maker = Sounds(seed, held_out=held_out)
    labels = list(itertools.islice(itertools.cycle(range(len(KINDS))), count))
    return [torch.from_numpy(maker.make(KINDS[label])) for label in labels], torch.tensor(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    arguments = parser.parse_args()
    torch.manual_seed(TRAINING_SEED)
    sounds, labels = examples(TRAINING_SEED, 1800, held_out=False)
    extractor = fitted_extractor(sounds)
    model = untrained()
    train(model, features_of(sounds, extractor), labels, steps=arguments.steps)
    heard, answers = examples(HELD_OUT_SEED, 300, held_out=True)
    print(f"held out: {accuracy(model, features_of(heard, extractor), answers):.1%} of {len(answers)}")  # noqa: T201
    model.save_pretrained(arguments.folder)
    extractor.save_pretrained(arguments.folder)


if __name__ == "__main__":
    main()
