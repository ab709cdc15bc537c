"""Synthetic drawings, and questions about them whose answers are known."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

COLORS = {
    "red": (220, 30, 30),
    "green": (30, 180, 40),
    "blue": (40, 60, 220),
    "yellow": (235, 220, 40),
    "purple": (140, 40, 170),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle")
COUNTS = ("one", "two", "three", "four")

QUESTIONS = {
    "color": ("What color is the shape?", "Which color is it?", "What colour are the shapes?"),
    "shape": ("What shape is it?", "Which shape is there?", "What shape do you see?"),
    "count": ("How many shapes are there?", "How many shapes do you see?", "Count the shapes."),
    "description": ("Describe the image.", "What is in the image?", "What do you see?"),
}
"""What is asked for -> ways to ask for it."""

_SLOTS = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5))
"""Upper left corners of the quarters of a drawing; each holds one shape at most."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """One to four shapes of one kind and color on a dark ground."""

    image: Image.Image
    color: str
    shape: str
    count: int

    def answer(self, kind: str) -> str:
        """Return the right answer to a question of `kind`."""
        number = COUNTS[self.count - 1]
        description = f"{number} {self.color} {self.shape}{'s' if self.count > 1 else ''}"
        return {"color": self.color, "shape": self.shape, "count": number, "description": description}[kind]


def draw(rng: random.Random, *, size: int = 144) -> Drawing:
    """Return a drawing of `size` x `size` pixels, with everything about it drawn from `rng`."""
    color, shape, count = rng.choice(list(COLORS)), rng.choice(SHAPES), rng.randint(1, len(COUNTS))
    image = Image.new("RGB", (size, size), tuple(rng.randint(0, 60) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    fill = tuple(min(255, max(0, value + rng.randint(-12, 12))) for value in COLORS[color])
    for left, top in rng.sample(_SLOTS, count):
        side = rng.uniform(0.32, 0.46) * size
        room = size / 2 - side - 2
        x, y = left * size + 1 + rng.uniform(0, room), top * size + 1 + rng.uniform(0, room)
        if shape == "circle":
            pen.ellipse((x, y, x + side, y + side), fill=fill)
        elif shape == "square":
            pen.rectangle((x, y, x + side, y + side), fill=fill)
        else:
            pen.polygon(((x + side / 2, y), (x, y + side), (x + side, y + side)), fill=fill)
    return Drawing(image, color, shape, count)
