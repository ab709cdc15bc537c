"""Trains the tiny video classifier of this folder: `python -m tests.models.video.train FOLDER`."""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEImageProcessorPil

from tests.models.video.clips import DIRECTIONS, HELD_OUT_SEED, TRAINING_SEED, moving_square

FRAMES, SIZE = 8, 64
LABELS = tuple(DIRECTIONS)


def processor() -> VideoMAEImageProcessorPil:
    return VideoMAEImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})


def untrained() -> VideoMAEForVideoClassification:
    config = VideoMAEConfig(
        image_size=SIZE,
        patch_size=16,
        num_frames=FRAMES,
        tubelet_size=2,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=192,
        use_mean_pooling=True,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    return VideoMAEForVideoClassification(config)  # type: ignore[no-untyped-call]


def batch(rng: random.Random, count: int) -> dict[str, torch.Tensor]:
    """Return clips as the processor would make them, and what their squares do."""
    labels = [rng.randrange(len(LABELS)) for _ in range(count)]
    clips = np.stack([moving_square(LABELS[label], rng, frames=FRAMES, size=SIZE) for label in labels])
    own = processor()
    mean, deviation = np.asarray(own.image_mean, np.float32), np.asarray(own.image_std, np.float32)
    pixels = (clips.astype(np.float32) / 255 - mean) / deviation
    return {
        "pixel_values": torch.from_numpy(pixels.transpose(0, 1, 4, 2, 3).copy()),
        "labels": torch.tensor(labels),
    }


def train(model: VideoMAEForVideoClassification, *, steps: int) -> None:
    rng = random.Random(TRAINING_SEED)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.5e-3, total_steps=steps)
    started = time.monotonic()
    model.train()
    for step in range(1, steps + 1):
        loss = model(**batch(rng, 32)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", flush=True)  # noqa: T201
    model.eval()  # type: ignore[no-untyped-call]


def accuracy(model: VideoMAEForVideoClassification, *, count: int) -> float:
    """Return the part of `count` held-out clips, prepared by the processor, that the model is right about."""
    rng, own, right = random.Random(HELD_OUT_SEED), processor(), 0
    with torch.inference_mode():
        for index in range(count):
            label = index % len(LABELS)
            inputs = own(list(moving_square(LABELS[label], rng)), return_tensors="pt")
            right += int(model(**inputs).logits.argmax(-1).item() == label)
    return right / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=700)
    arguments = parser.parse_args()
    torch.manual_seed(TRAINING_SEED)
    model = untrained()
    train(model, steps=arguments.steps)
    print(f"held out: {accuracy(model, count=300):.1%} of 300")  # noqa: T201
    model.save_pretrained(arguments.folder)
    processor().save_pretrained(arguments.folder)


if __name__ == "__main__":
    main()
