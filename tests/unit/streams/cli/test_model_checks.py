"""What `inferstream doctor` says of the tags of registered models."""

from __future__ import annotations

from engines.models.resolved_model import ResolvedModel
from streams.cli.model_checks import check_tags


def test_tags_that_make_sense_are_not_mentioned() -> None:
    models = [
        ResolvedModel("a", "1", "mlflow-artifacts:/1", {"task": "asr", "engine": "transformers"}),
        ResolvedModel("b", "1", "ollama://local/b", {"task": "asr, ocr", "engine": "ollama"}),
    ]
    assert list(check_tags(models, tasks=["asr", "ocr"], engines=["transformers", "ollama"])) == []


def test_missing_tags_are_one_warning_for_all_models() -> None:
    models = [ResolvedModel(name, "1", "hf://a/b", {"engine": "transformers"}) for name in ("a", "b")]
    [found] = list(check_tags(models, tasks=["asr"], engines=["transformers"]))
    assert found.status == "warning"
    assert "without tag task" in found.detail
    assert "a/1, b/1" in found.detail
    assert "--task" in found.cure


def test_tags_that_nothing_serves_are_named_with_what_is_known() -> None:
    model = ResolvedModel("a", "3", "hf://a/b", {"task": "asr,asrr", "engine": "transformers"})
    [found] = list(check_tags([model], tasks=["asr"], engines=["transformers"]))
    assert "a/3 has tag task=asr,asrr, where nothing here serves asrr" in found.detail
    assert "known: asr" in found.detail


def test_a_source_that_contradicts_the_engine_is_a_warning() -> None:
    model = ResolvedModel("a", "1", "ollama://local/a", {"task": "asr", "engine": "transformers"})
    [found] = list(check_tags([model], tasks=["asr"], engines=["transformers"]))
    assert "ollama://local/a" in found.detail
    assert "--engine ollama" in found.cure
