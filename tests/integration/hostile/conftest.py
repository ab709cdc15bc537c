"""A server of all tasks, small models, and what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import LocalStack
from engines.models.model_manager import ModelManager
from tests.integration.hostile.asking import Victim
from tests.integration.test_serve import ServeProcess, sections_of
from tests.models.audio import WEIGHTS as AUDIO_WEIGHTS
from tests.models.video import WEIGHTS as VIDEO_WEIGHTS
from tests.models.vlm import WEIGHTS as VLM_WEIGHTS


@pytest.fixture(scope="package")
def victim(
    local_stack: LocalStack,
    real_models: None,
    model_manager: ModelManager,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Victim]:
    """A server that has answered every plain question once, shared: it lives to the end."""
    for name, folder, tasks in (
        ("hostile-vlm", VLM_WEIGHTS, "vlm,video-analysis,document-analysis"),
        ("hostile-audio", AUDIO_WEIGHTS, "audio-classification"),
        ("hostile-video", VIDEO_WEIGHTS, "video-analysis"),
    ):
        model_manager.register_model_to_mlflow(
            model_name=name, model_source="huggingface", model_path=str(folder), tags={"task": tasks}
        )
    directory: Path = tmp_path_factory.mktemp("hostile")
    sections = sections_of(
        local_stack,
        directory,
        http={"request_timeout_s": 75},
        # Four times that by the clock, on a busy machine, is still less than the time of a request.
        media={"decode_timeout_s": 15, "document_timeout_s": 15},
        transformers={"device": "cpu"},
    )
    with ServeProcess(directory, sections) as process:
        victim = Victim(process)
        victim.warm()
        yield victim
        assert process.process.poll() is None, process.log[-4000:]
