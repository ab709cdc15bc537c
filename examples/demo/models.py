"""The models of the demo: published weights, and tiny ones that were trained for the tests."""

from __future__ import annotations

from rich.console import Console

from deploy.models import CATALOGUE, prepare, progress_bars
from examples.models.ollama import MODEL
from streams.local.platform import LocalModel
from tests.models import audio, video, vlm

TEXT = "smollm2-135m-instruct"
SPEECH = "whisper-base"
PAGES = "pp-ocrv5-mobile"
DRAWINGS = "tiny-vlm"
SOUNDS = "tiny-audio"
CLIPS = "tiny-video"
OLLAMA_TEXT = "smollm2-135m-ollama"


def demo_models(console: Console) -> tuple[LocalModel, ...]:
    """Return the models, ready to be registered; the published ones are fetched the first time."""
    with progress_bars(console) as report:
        published = [
            LocalModel.prepared(name, prepare(CATALOGUE[name], progress=report)) for name in (TEXT, SPEECH, PAGES)
        ]
    trained = [
        LocalModel(name, "local", {"task": task, "engine": "transformers"}, folder)
        for name, task, folder in (
            (DRAWINGS, "vlm", vlm.WEIGHTS),
            (SOUNDS, "audio-classification", audio.WEIGHTS),
            (CLIPS, "video-analysis", video.WEIGHTS),
        )
    ]
    served = LocalModel(
        OLLAMA_TEXT,
        "ollama",
        {"task": "text-generation", "engine": "ollama", "ollama_model_name": MODEL},
    )
    return (*published, *trained, served)
