"""Decoding by the best path, and how lines are prepared."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engines.transformers.documents.text_recognition import TextRecognizer, best_path

CHARACTERS = ("blank", "a", "b", " ")


def steps(*classes: int, chance: float = 0.7) -> torch.Tensor:
    """Return probabilities in which those classes are the likeliest, one a step."""
    found = torch.full((len(classes), len(CHARACTERS)), (1 - chance) / (len(CHARACTERS) - 1))
    for step, index in enumerate(classes):
        found[step, index] = chance
    return found


@pytest.fixture
def recognizer() -> TextRecognizer:
    model: Any = SimpleNamespace(config=SimpleNamespace(head_out_channels=len(CHARACTERS)))
    return TextRecognizer("lines", model, {"character_list": list(CHARACTERS)})


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        ((1, 1, 0, 1, 2, 2), "aab"),
        ((0, 0, 2, 3, 0, 1), "b a"),
        ((3, 1, 3, 3), "a"),
        ((3,), ""),
        ((1,), "a"),
        ((0, 0, 0), ""),
    ],
)
def test_repeated_classes_are_one_letter_unless_a_blank_parts_them(classes: tuple[int, ...], text: str) -> None:
    line = best_path(steps(*classes), CHARACTERS)
    assert line.text == text
    assert line.score == pytest.approx(0.7 if text else 0.0)


def test_the_score_is_the_mean_over_the_letters_alone() -> None:
    line = best_path(torch.cat([steps(1, chance=0.9), steps(0, chance=0.3), steps(2, chance=0.5)]), CHARACTERS)
    assert line.text == "ab"
    assert line.score == pytest.approx(0.7)


def test_a_line_is_prepared_blue_first_and_padded_with_grey(recognizer: TextRecognizer) -> None:
    prepared = recognizer.prepare(Image.new("RGB", (40, 24), (255, 0, 127)), 320)
    assert prepared.shape == (3, 48, 320)
    np.testing.assert_allclose(prepared[:, 0, 0], [127 / 127.5 - 1, -1, 1], atol=1e-6)
    assert prepared[:, :, 80:].abs().max() == 0
    assert prepared[1, :, :80].eq(-1).all()


@pytest.mark.parametrize(
    ("size", "width"),
    [((40, 24), 320), ((320, 48), 320), ((321, 48), 480), ((480, 48), 480), ((9000, 10), 3200)],
)
def test_widths_are_rounded_up_so_that_lines_share_a_pass_without_sharing_padding(
    recognizer: TextRecognizer, size: tuple[int, int], width: int
) -> None:
    line = Image.new("RGB", size)
    assert recognizer._padded_width(line) == width
    assert recognizer.prepare(line, width).shape == (3, 48, width)


def test_lines_that_do_not_fit_together_are_read_in_halves_from_then_on() -> None:
    class Reader(torch.nn.Module):
        """Says "a" to every line, and has room for three of them."""

        config = SimpleNamespace(head_out_channels=len(CHARACTERS))
        device, dtype = torch.device("cpu"), torch.float32

        def __init__(self) -> None:
            super().__init__()
            self.passes: list[int] = []

        def forward(self, pixel_values: torch.Tensor) -> Any:
            self.passes.append(len(pixel_values))
            if len(pixel_values) > 3:
                raise torch.OutOfMemoryError("no room")
            return SimpleNamespace(last_hidden_state=torch.stack([steps(1)] * len(pixel_values)))

    model: Any = Reader()
    recognizer = TextRecognizer("lines", model, {"character_list": list(CHARACTERS)})
    lines = [Image.new("RGB", (40, 24))] * 20
    assert [line.text for line in recognizer.read(lines)] == ["a"] * 20
    assert model.passes == [16, 8, 4, *[2] * 10]
    model.passes.clear()
    recognizer.read(lines[:4])
    assert model.passes == [2, 2]
