"""Packs weights of linear layers in oneDNN's layout: on a CPU, a product with a few rows takes half the time.

A step of generation multiplies a few rows by every weight. Weights are stored row by row and fetched in that order.
Packed, a layer of 2048 x 2048 takes 0.7 ms for four rows instead of 1.7 (one core with AVX-512), and 9.7 ms instead
of 11.9 for 128. `docs/decisions/packed-weights.md` has the figures.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

_SMALLEST = 2**16
"""Weights with fewer numbers are not packed: there the overhead of a call counts more than the product."""

_ROWS = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Numbers of rows that are multiplied at once; others are split and padded with zeros to these. For each number
oneDNN keeps a compiled kernel of about a megabyte: prompts of all lengths would fill the memory. Four rows take less
time than one or two; beyond 128 rows a whole is hardly faster than its parts."""

_LAID_OUT_FOR = 16
"""Number of rows for which oneDNN chooses the layout; those for 4, 8 and 64 are equally fast."""


def pack_weights(model: torch.nn.Module) -> None:
    """Pack the weights of a model on the CPU that will not be trained, and release its file. Packed are the float32
    weights of plain linear layers. A weight that is shared with an embedding is packed for the linear layer only.
    Everything else is copied, so that the mapped file is neither kept open nor read again."""
    if not can_pack():
        return
    layers_of: dict[torch.Tensor, list[torch.nn.Linear]] = {}
    for layer in model.modules():
        if type(layer) is torch.nn.Linear and _is_worth_it(layer.weight):
            layers_of.setdefault(layer.weight, []).append(layer)
    while layers_of:  # one by one, so that only one weight at a time is in memory twice
        weight, layers = layers_of.popitem()
        packed = torch.nn.Parameter(PackedWeight(weight.detach()), requires_grad=False)
        for layer in layers:
            layer.weight = packed
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and not isinstance(tensor, PackedWeight):
            tensor.data = tensor.data.clone()


def can_pack() -> bool:
    """Tell whether this machine and this torch support packed weights."""
    has_kernels = all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight"))
    return torch._C._has_mkldnn and has_kernels and platform.machine() in ("x86_64", "AMD64")


def _is_worth_it(weight: torch.Tensor) -> bool:
    return (
        not isinstance(weight, PackedWeight)
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.numel() >= _SMALLEST
    )


class PackedWeight(torch.Tensor):
    """A matrix for fast products in `linear`; any other use unpacks it, which takes a copy. Immutable, and safe to
    use from several threads at once."""

    packed: torch.Tensor
    """The matrix in oneDNN's layout, which only `linear` here can read."""

    @staticmethod
    def __new__(cls, weight: torch.Tensor, packed: torch.Tensor | None = None) -> PackedWeight:
        """`weight` is (outputs, inputs), float32; `packed` is the same matrix where it is packed already."""
        made: PackedWeight = torch.Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype)
        made.packed = torch.ops.mkldnn._reorder_linear_weight(weight, _LAID_OUT_FOR) if packed is None else packed
        return made

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.nn.functional.linear and not kwargs and _is_plain(*args):
            return _linear(*args)
        with torch._C.DisableTorchFunctionSubclass():  # so that the result is a plain tensor
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch says this of its own subclasses too
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0], args[0].packed)
        args, kwargs = tree_map_only(cls, lambda weight: weight.packed.to_dense(), (args, kwargs or {}))
        return func(*args, **kwargs)


def _is_plain(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    return (
        isinstance(weight, PackedWeight)
        and inputs.dtype == torch.float32
        and inputs.shape[-1] == weight.packed.shape[1]  # another shape would come this way again
        and inputs.numel() > 0
    )


def _linear(inputs: torch.Tensor, weight: PackedWeight, bias: torch.Tensor | None = None) -> torch.Tensor:
    size = inputs.shape[-1]
    count = inputs.numel() // size
    if count in _ROWS:
        return _multiplied(inputs, weight.packed, bias)
    rows = inputs.reshape(count, size)
    outputs = rows.new_empty((count, weight.packed.shape[0]))
    for start in range(0, count, _ROWS[-1]):
        part = rows[start : start + _ROWS[-1]]
        missing = _ROWS[bisect_left(_ROWS, len(part))] - len(part)
        filled = torch.nn.functional.pad(part, (0, 0, 0, missing)) if missing else part
        outputs[start : start + len(part)] = _multiplied(filled, weight.packed, bias)[: len(part)]
    return outputs.view(*inputs.shape[:-1], -1)


def _multiplied(rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(rows, packed, bias, "none", [], "")
    return product
