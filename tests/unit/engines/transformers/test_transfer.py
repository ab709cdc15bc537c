"""Inputs on their way to a model's device."""

from __future__ import annotations

import pytest
import torch

from engines.transformers.device import to_model


class _Model(torch.nn.Module):
    def __init__(self, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.device, self.dtype = torch.device(device), dtype


def test_floats_take_the_models_number_format_and_all_else_stays_what_it_is() -> None:
    inputs = {
        "pixels": torch.ones(2),
        "ids": torch.tensor([1, 2]),
        "mask": torch.tensor([True]),
        "none": None,
    }
    moved = to_model(_Model("cpu", torch.bfloat16), inputs)
    assert {name: getattr(value, "dtype", None) for name, value in moved.items()} == {
        "pixels": torch.bfloat16,
        "ids": torch.int64,
        "mask": torch.bool,
        "none": None,
    }
    assert moved["pixels"].tolist() == [1.0, 1.0]


def test_inputs_go_to_the_models_device() -> None:
    moved = to_model(_Model("meta", torch.float32), {"pixels": torch.ones(2)})
    assert moved["pixels"].device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_given_what_lay_here() -> None:
    pixels = torch.arange(1_000_000, dtype=torch.float32)
    moved = to_model(_Model("cuda:0", torch.float32), {"pixels": pixels})
    assert moved["pixels"].device.type == "cuda"
    assert torch.equal(moved["pixels"].cpu(), pixels)
