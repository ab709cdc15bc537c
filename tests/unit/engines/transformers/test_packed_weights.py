"""Packed weights: the same products, and nothing else about a model changes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear

from engines.transformers import packed_weights
from engines.transformers.packed_weights import PackedWeight, can_pack, pack_weights

if not can_pack():  # another kind of processor: models run as they are loaded
    pytest.skip("packing takes an x86 processor", allow_module_level=True)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(3)
    with torch.no_grad():
        yield


def test_a_torch_without_the_kernels_would_be_noticed_here() -> None:
    """The kernels are private to torch; without them every model still runs, only slower."""
    assert hasattr(torch.ops.mkldnn, "_linear_pointwise")
    assert hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def test_few_kernels_serve_any_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each number of rows has a kernel of its own that oneDNN keeps: there must be no more with more lengths."""
    counts: set[int] = set()
    multiply = packed_weights._multiplied

    def counted(rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        counts.add(rows.numel() // rows.shape[-1])
        return multiply(rows, packed, bias)

    monkeypatch.setattr(packed_weights, "_multiplied", counted)
    layer = torch.nn.Linear(300, 257)
    plain = copy.deepcopy(layer)
    pack_weights(layer)
    inputs = torch.randn(600, 300)
    for rows in (*range(1, 140), 255, 256, 257, 599, 600):
        torch.testing.assert_close(layer(inputs[:rows]), plain(inputs[:rows]), rtol=1e-5, atol=1e-5)
    assert len(counts) <= 11
    assert max(counts) == 128


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(
    "shape", [(1, 300), (2, 300), (3, 300), (4, 300), (130, 300), (2, 7, 300), (1, 1, 300), (300,)]
)
def test_a_packed_layer_multiplies_like_a_plain_one(shape: tuple[int, ...], has_bias: bool) -> None:
    layer = torch.nn.Linear(300, 257, bias=has_bias)
    inputs = torch.randn(shape)
    plain = layer(inputs)
    pack_weights(layer)
    assert isinstance(layer.weight, PackedWeight)
    with torch.inference_mode():
        torch.testing.assert_close(layer(inputs), plain, rtol=1e-5, atol=1e-5)


def test_inputs_that_do_not_lie_row_by_row_are_multiplied_alike() -> None:
    layer = torch.nn.Linear(300, 257)
    inputs = torch.randn(300, 6).t()
    plain = layer(inputs)
    pack_weights(layer)
    torch.testing.assert_close(layer(inputs), plain, rtol=1e-5, atol=1e-5)


def test_no_rows_give_no_rows() -> None:
    layer = torch.nn.Linear(300, 257)
    pack_weights(layer)
    assert layer(torch.empty(0, 300)).shape == (0, 257)


def test_inputs_of_a_wrong_size_are_refused_as_by_a_plain_layer() -> None:
    layer = torch.nn.Linear(300, 257)
    pack_weights(layer)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer(torch.randn(5, 299))


def test_whatever_else_is_done_with_a_packed_weight_sees_its_numbers() -> None:
    layer = torch.nn.Linear(300, 257)
    weight = layer.weight.detach().clone()
    pack_weights(layer)
    inputs = torch.randn(5, 300)
    assert torch.equal(layer.weight + 0, weight)
    assert torch.equal(layer.weight[3:9], weight[3:9])
    torch.testing.assert_close(inputs @ layer.weight.t(), inputs @ weight.t())
    torch.testing.assert_close(linear(inputs, weight=layer.weight), linear(inputs, weight))
    assert (layer.weight.shape, layer.weight.dtype, layer.weight.device) == (
        weight.shape,
        weight.dtype,
        weight.device,
    )


def test_a_packed_model_can_be_packed_again() -> None:
    layer = torch.nn.Linear(300, 257)
    inputs = torch.randn(5, 300)
    pack_weights(layer)
    once = layer(inputs)
    pack_weights(layer)
    assert torch.equal(layer(inputs), once)


def test_an_embedding_that_shares_its_weight_with_a_layer_stays_as_it_is() -> None:
    embedding, head = torch.nn.Embedding(257, 300), torch.nn.Linear(300, 257, bias=False)
    head.weight = embedding.weight
    pack_weights(torch.nn.ModuleDict({"embedding": embedding, "head": head}))
    assert not isinstance(embedding.weight, PackedWeight)
    assert isinstance(head.weight, PackedWeight)
    assert torch.equal(head.weight + 0, embedding.weight)


def test_layers_that_share_a_weight_share_it_packed() -> None:
    one, other = torch.nn.Linear(300, 257), torch.nn.Linear(300, 257)
    other.weight = one.weight
    pack_weights(torch.nn.ModuleList([one, other]))
    assert isinstance(one.weight, PackedWeight)
    assert one.weight is other.weight


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Linear(16, 16),
        torch.nn.Linear(300, 257, dtype=torch.bfloat16),
        torch.nn.Linear(300, 257, device="meta"),
        torch.nn.modules.linear.NonDynamicallyQuantizableLinear(300, 257),
    ],
    ids=["small", "bfloat16", "without numbers", "a kind of its own"],
)
def test_what_gains_nothing_stays_as_it_is(layer: torch.nn.Linear) -> None:
    pack_weights(layer)
    assert not isinstance(layer.weight, PackedWeight)


def test_a_packed_model_no_longer_hangs_on_its_file(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(257, 300), "bias": torch.ones(257)}, tmp_path / "weights")
    layer = torch.nn.Linear(300, 257)
    weights = load_file(tmp_path / "weights")
    layer.weight.data, layer.bias.data = weights["weight"], weights["bias"]
    del weights
    pack_weights(layer)
    assert layer.bias.untyped_storage().nbytes() == 257 * 4
    (tmp_path / "weights").write_bytes(b"")  # reading what was mapped would end the process from here on
    assert layer(torch.ones(1, 300)).tolist() == [[301.0] * 257]
