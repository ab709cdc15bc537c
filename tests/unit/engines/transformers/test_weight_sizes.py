"""What weights will take is told from their files, in the number format that they will have."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from engines.config.settings import TransformersSettings
from engines.transformers.engine import TransformersEngine
from engines.transformers.loading import bytes_in_memory
from tests.unit.engines.tiny_models import save_llama


def test_numbers_with_a_point_count_in_the_format_of_the_model_and_others_in_their_own(
    tmp_path: Path,
) -> None:
    weights = {
        "half": torch.zeros(3, 5, dtype=torch.bfloat16),
        "single": torch.zeros(7),
        "long": torch.zeros(2, dtype=torch.int64),
        "bytes": torch.zeros(11, dtype=torch.int8),
    }
    save_file(weights, tmp_path / "model.safetensors")
    assert bytes_in_memory(tmp_path, 4) == (15 + 7) * 4 + 2 * 8 + 11
    assert bytes_in_memory(tmp_path, 2) == (15 + 7) * 2 + 2 * 8 + 11


def test_of_many_files_those_count_that_the_index_names(tmp_path: Path) -> None:
    for name in ("one", "two", "another format"):
        save_file({name: torch.zeros(10)}, tmp_path / f"{name}.safetensors")
    index = {"weight_map": {"one": "one.safetensors", "two": "two.safetensors", "too": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert bytes_in_memory(tmp_path, 4) == 80


def test_models_of_two_parts_count_with_both(tmp_path: Path) -> None:
    for part in ("detection", "recognition", "unknown"):
        (tmp_path / part).mkdir()
        save_file({"weight": torch.zeros(10)}, tmp_path / part / "model.safetensors")
    assert bytes_in_memory(tmp_path, 4) == 80


def test_where_there_are_no_safetensors_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    assert bytes_in_memory(tmp_path, 4) is None
    assert bytes_in_memory(tmp_path / "missing", 4) is None


def _claiming(shape: str) -> bytes:
    """Return a file of safetensors with ten numbers, which says that they have another shape."""
    header = f'{{"weight": {{"dtype": "F32", "shape": {shape}, "data_offsets": [0, 40]}}}}'.encode()
    return struct.pack("<Q", len(header)) + header + bytes(40)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("model.safetensors", b"\xff" * 20, id="no safetensors"),
        pytest.param("model.safetensors", b"", id="empty"),
        pytest.param("model.safetensors", save({"weight": torch.zeros(10)})[:-1], id="cut short"),
        pytest.param("model.safetensors", _claiming("[1000000000000]"), id="larger than the file"),
        pytest.param("model.safetensors", _claiming("[-10]"), id="less than nothing"),
        pytest.param("model.safetensors", _claiming("[NaN]"), id="no number"),
        pytest.param("model.safetensors", _claiming("[" * 100_000), id="nested too deep"),
        pytest.param("model.safetensors.index.json", b"[" * 100_000, id="index nested too deep"),
        pytest.param("model.safetensors.index.json", b"{", id="no JSON"),
        pytest.param("model.safetensors.index.json", b"[]", id="no object"),
        pytest.param("model.safetensors.index.json", b'{"weight_map": []}', id="no map"),
        pytest.param("model.safetensors.index.json", b'{"weight_map": {"a": "gone"}}', id="file is gone"),
        pytest.param("model.safetensors.index.json", b'{"weight_map": {"a": 1}}', id="no name"),
    ],
)
def test_where_they_cannot_be_read_nothing_is_known(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert bytes_in_memory(tmp_path, 4) is None


def test_where_one_of_two_parts_cannot_be_read_nothing_is_known(tmp_path: Path) -> None:
    weights = save({"weight": torch.zeros(10)})
    for part, content in (("detection", weights), ("recognition", weights[:-1])):
        (tmp_path / part).mkdir()
        (tmp_path / part / "model.safetensors").write_bytes(content)
    assert bytes_in_memory(tmp_path, 4) is None


@pytest.mark.parametrize("number_format", ["fp32", "bf16"])
def test_the_engine_expects_what_it_will_hold(tmp_path: Path, number_format: Any) -> None:
    engine = TransformersEngine(TransformersSettings(device="cpu", torch_dtype=number_format))
    how: dict[str, Any] = {"task": "text-generation", "path": save_llama(tmp_path)}
    runner = engine.load_model("tiny", **how)
    size, device = engine.expected_size("tiny", **how) or (0, "")
    buffers = sum(one.nbytes for one in runner.model.buffers())  # made while loading, they are in no file
    assert (size + buffers, device) == (engine.model_bytes(runner), engine.model_device(runner))
    engine.unload_model(runner)
