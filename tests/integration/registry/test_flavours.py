"""Models that MLflow logged itself: its transformers flavour is read, others are refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines.models.model_manager import ModelManager
from engines.models.resolved_model import ResolvedModel
from handlers.errors import ModelLoadFailed
from tests.device import on_this_machine


@pytest.mark.filterwarnings("ignore")
def test_a_pipeline_that_mlflow_transformers_saved_answers_as_it_did_before(
    models: ModelManager, name: str, tmp_path: Path
) -> None:
    import mlflow.transformers
    from transformers import pipeline

    from engines.transformers.engine import TransformersEngine
    from tests.unit.engines.tiny_models import save_llama

    engine = TransformersEngine(on_this_machine())
    plain = save_llama(tmp_path / "plain", chat=False)
    mlflow.transformers.save_model(
        pipeline("text-generation", model=str(plain), device="cpu"),
        tmp_path / "saved",
        pip_requirements=["transformers"],
    )
    model = models.register_model_to_mlflow(model_name=name, model_source="local", model_path=tmp_path / "saved")
    answers = [
        engine.infer(
            engine.load_model(name, task="text-generation", path=path),
            {"inputs": "a b c"},
            {"max_new_tokens": 8},
        )
        for path in (plain, models.files.acquire(model))
    ]
    assert answers[0] == answers[1]


def test_a_model_logged_by_mlflow_transformers_becomes_a_plain_folder(
    models: ModelManager, name: str, tmp_path: Path
) -> None:
    model = _register_logged(models, name, tmp_path, {"transformers": {"model_binary": "model"}})
    assert sorted(path.name for path in models.files.acquire(model).glob("[a-z]*.json")) == [
        "config.json",
        "tokenizer.json",
    ]


@pytest.mark.parametrize(
    ("flavors", "says"),
    [
        ({"sklearn": {"pickled_model": "model.pkl"}, "python_function": {}}, "flavour sklearn"),
        ({"python_function": {"loader_module": "mine"}}, "flavour python_function"),
        ({}, "flavour python_function"),
        ({"transformers": {"model_binary": "model", "code": "code"}}, "code_paths"),
        ({"transformers": {"model_binary": "../../etc"}}, "no folder"),
    ],
)
def test_other_flavours_and_models_with_code_are_refused_with_the_reason(
    models: ModelManager, name: str, tmp_path: Path, flavors: dict[str, Any], says: str
) -> None:
    model = _register_logged(models, name, tmp_path, flavors)
    with pytest.raises(ModelLoadFailed, match=says):
        models.files.acquire(model)


def _register_logged(models: ModelManager, name: str, tmp_path: Path, flavors: dict[str, Any]) -> ResolvedModel:
    """Register a folder in the layout of mlflow.transformers."""
    import yaml

    logged = tmp_path / "logged"
    (logged / "model").mkdir(parents=True)
    (logged / "model" / "config.json").write_text("{}")
    (logged / "components" / "tokenizer").mkdir(parents=True)
    (logged / "components" / "tokenizer" / "tokenizer.json").write_text("{}")
    (logged / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors}))
    return models.register_model_to_mlflow(model_name=name, model_source="local", model_path=logged)
