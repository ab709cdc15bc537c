"""The transformers engine around its runners: loading, refusing, batching, failing, unloading."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.config.settings import TransformersSettings
from engines.transformers.engine import TransformersEngine
from engines.transformers.runner import RUNNERS, TaskRunner
from handlers.errors import ModelLoadFailed
from tests.device import on_this_machine
from tests.unit.engines.tiny_models import save_classifier


@pytest.fixture
def copied(llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may break."""
    return Path(shutil.copytree(llama, tmp_path / "copy"))


def refusal(engine: TransformersEngine, path: Any, *, task: str = "text-generation") -> str:
    with pytest.raises(ModelLoadFailed) as caught:
        engine.load_model("tiny", task=task, path=path)
    return caught.value.message


def test_a_model_is_loaded_run_and_unloaded(engine: TransformersEngine, llama: Path) -> None:
    runner = engine.load_model("tiny", task="text-generation", path=llama, version="1", tags={})
    result = engine.infer(runner, {"inputs": "a b c"}, {"max_new_tokens": 4})
    assert result["completion_tokens"] <= 4
    assert engine.unload_model(runner) is True
    assert engine.unload_model(runner) is False


def test_a_model_whose_loops_do_not_end_well_is_freed_all_the_same(
    engine: TransformersEngine, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = engine.load_model("tiny", task="text-generation", path=llama)
    weights = weakref.ref(runner.model)

    def broken(self: TaskRunner) -> None:
        raise RuntimeError("a thread is stuck")

    monkeypatch.setattr(type(runner), "close", broken)
    with pytest.raises(RuntimeError, match="a thread is stuck"):
        engine.unload_model(runner)
    assert weights() is None


def test_model_bytes_are_those_of_the_weights(engine: TransformersEngine, llama: Path) -> None:
    runner = engine.load_model("tiny", task="text-generation", path=llama)
    on_disk = (llama / "model.safetensors").stat().st_size
    assert engine.model_bytes(runner) == pytest.approx(on_disk, rel=0.2)


def test_a_model_says_which_device_it_is_on(engine: TransformersEngine, llama: Path) -> None:
    runner = engine.load_model("tiny", task="text-generation", path=llama)
    assert engine.model_device(runner) == str(next(runner.model.parameters()).device)


def test_every_task_that_is_supported_has_a_runner(engine: TransformersEngine) -> None:
    assert engine.supported_tasks == frozenset(RUNNERS)


def test_an_unsupported_task_names_the_supported_ones(engine: TransformersEngine, llama: Path) -> None:
    assert f"transformers runs {', '.join(sorted(RUNNERS))}, not 'poetry'" in refusal(engine, llama, task="poetry")


@pytest.mark.parametrize("path", [None, "/nowhere/at/all"])
def test_a_missing_folder_is_named(engine: TransformersEngine, path: Any) -> None:
    assert f"there is no folder at {path}" in refusal(engine, path)


def test_a_folder_without_a_config_is_refused(engine: TransformersEngine, tmp_path: Path) -> None:
    assert "has no config.json" in refusal(engine, tmp_path)


@pytest.mark.parametrize("task", sorted(RUNNERS))
def test_an_adapter_is_told_to_be_merged(engine: TransformersEngine, tmp_path: Path, task: str) -> None:
    """It was saved by save_pretrained, so that advice would help nobody."""
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/model"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    told = refusal(engine, tmp_path, task=task)
    assert "holds a PEFT adapter, not a whole model" in told
    assert "merge_and_unload" in told


@pytest.mark.logs_errors("model_load_failed")
def test_a_config_that_is_no_json_is_refused(engine: TransformersEngine, copied: Path) -> None:
    (copied / "config.json").write_text("{")
    assert refusal(engine, copied).startswith("model tiny did not load: ")


def test_a_model_of_another_kind_is_refused_by_its_class(
    engine: TransformersEngine, llama: Path, tmp_path: Path
) -> None:
    assert refusal(engine, save_classifier(tmp_path)) == (
        "model tiny is a BertForSequenceClassification; this task needs a language model "
        "(AutoModelForCausalLM or AutoModelForSeq2SeqLM)"
    )
    assert refusal(engine, llama, task="asr") == (
        "model tiny is a LlamaForCausalLM; this task needs a Whisper speech model or a CTC speech model "
        "(AutoModelForSpeechSeq2Seq or AutoModelForCTC)"
    )


@pytest.mark.parametrize("task", sorted({*RUNNERS} - {"text-generation"}))
def test_a_model_of_another_kind_is_refused_before_room_is_made_for_it(
    engine: TransformersEngine, llama: Path, task: str
) -> None:
    with pytest.raises(ModelLoadFailed, match="model tiny is a LlamaForCausalLM; this task needs"):
        engine.expected_size("tiny", task=task, path=llama)


@pytest.mark.logs_errors("model_load_failed")
def test_what_the_settings_refuse_is_refused_before_room_is_made_for_it(
    engine: TransformersEngine, copied: Path
) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(ModelLoadFailed, match=r"has no .*safetensors weights"):
        engine.expected_size("tiny", task="text-generation", path=copied)
    (copied / "config.json").write_text("{")
    with pytest.raises(ModelLoadFailed, match=r"^model tiny did not load: "):
        engine.expected_size("tiny", task="text-generation", path=copied)


def test_a_model_with_missing_weights_is_refused(engine: TransformersEngine, copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert "lacks weights: model.norm.weight; register a complete model" in refusal(engine, copied)


@pytest.mark.logs_errors("model_load_failed")
def test_truncated_weights_are_refused(engine: TransformersEngine, copied: Path) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert refusal(engine, copied).startswith("model tiny did not load: ")


def test_pickled_weights_are_refused_unless_a_setting_allows_them(copied: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    strict = TransformersEngine(on_this_machine())
    assert "no *.safetensors weights" in refusal(strict, copied)
    assert "transformers.allow_pickle" in refusal(strict, copied)
    trusting = TransformersEngine(on_this_machine(allow_pickle=True))
    runner = trusting.load_model("tiny", task="text-generation", path=copied)
    assert trusting.infer(runner, {"inputs": "a"}, {"max_new_tokens": 1})["prompt_tokens"] > 0


def ship_code(folder: Path, part: str, witness: Path) -> None:
    """Let a part of the model in `folder` ask for Python code that lies beside it and tells when it runs."""
    (folder / "its_code.py").write_text(
        f"open({str(witness)!r}, 'w').close()\nfrom transformers import LlamaConfig, LlamaForCausalLM\n"
        "class Config(LlamaConfig):\n    model_type = 'unheard-of'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
    )
    described = folder / part
    description = json.loads(described.read_text())
    if part == "config.json":
        description |= {"model_type": "unheard-of", "architectures": ["Model"]}
        auto_map: dict[str, Any] = {"AutoConfig": "its_code.Config", "AutoModelForCausalLM": "its_code.Model"}
    else:
        description["tokenizer_class"] = "UnheardOf"
        auto_map = {"AutoTokenizer": ["its_code.Tokenizer", None]}
    described.write_text(json.dumps({**description, "auto_map": auto_map}))


@pytest.mark.parametrize("part", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_not_run_unless_a_setting_allows_it(
    engine: TransformersEngine, copied: Path, tmp_path: Path, part: str
) -> None:
    ship_code(copied, part, tmp_path / "it-ran")
    assert refusal(engine, copied) == (
        "model tiny ships Python code (its_code.py), which is not run; use a model of a class that "
        "transformers has, or set transformers.trust_remote_code if you trust its author"
    )
    assert not (tmp_path / "it-ran").exists()


def test_code_that_comes_with_a_model_is_run_where_a_setting_allows_it(copied: Path, tmp_path: Path) -> None:
    ship_code(copied, "config.json", tmp_path / "it-ran")
    settings = on_this_machine(trust_remote_code=True)
    runner = TransformersEngine(settings).load_model("tiny", task="text-generation", path=copied)
    assert type(runner.model).__name__ == "Model"
    assert (tmp_path / "it-ran").exists()


def test_a_device_this_machine_lacks_is_refused_with_the_way_out(llama: Path) -> None:
    engine = TransformersEngine(TransformersSettings(device="cuda:99"))
    assert "transformers.device is cuda:99" in refusal(engine, llama)
    assert "set it to auto or cpu" in refusal(engine, llama)


@pytest.mark.parametrize(("setting", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_number_format_is_that_of_the_settings(llama: Path, setting: Any, dtype: torch.dtype) -> None:
    engine = TransformersEngine(on_this_machine(torch_dtype=setting))
    runner = engine.load_model("tiny", task="text-generation", path=llama)
    assert runner.model.dtype == dtype
    assert engine.health()["torch_dtype"] == str(dtype)


def test_auto_is_fp32_on_the_cpu(engine: TransformersEngine, llama: Path) -> None:
    assert engine.load_model("tiny", task="text-generation", path=llama).model.dtype == torch.float32


def test_attention_that_is_planned_anew_for_every_length_is_not_used(engine: TransformersEngine, llama: Path) -> None:
    engine.load_model("tiny", task="text-generation", path=llama)
    assert not torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]


def test_health_tells_of_a_device_that_is_not_there(llama: Path) -> None:
    engine = TransformersEngine(TransformersSettings(device="cuda:99"))
    refusal(engine, llama)
    assert engine.health()["status"] == "error"
    assert "cuda:99" in engine.health()["error"]


def test_requests_that_differ_in_what_a_row_keeps_for_itself_share_a_batch(
    engine: TransformersEngine,
) -> None:
    plain = engine.batch_key({})
    assert engine.batch_key({"max_new_tokens": 5, "seed": 1, "temperature": 0.3, "stop": ["x"]}) == plain
    beams = engine.batch_key({"num_beams": 2})
    assert beams != plain
    assert engine.batch_key({"seed": 3, "num_beams": 2}) == beams
    assert engine.batch_key({"timestamps": "word"}) != plain


@pytest.mark.processes
def test_importing_the_engine_brings_in_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from engines.transformers.engine import TransformersEngine; e = TransformersEngine(); "
        "e.batch_key({}); e.health(); print([n for n in ('torch', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
