"""Servers, models, a worker, real requests of every task, and their answers in a table."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from deploy.local import LocalStack, StackError
from deploy.local.s3 import BUCKET
from deploy.models import PreparationError
from examples.demo.cases import planned
from examples.demo.models import OLLAMA_TEXT, demo_models
from examples.demo.progress import AnswersProgress
from examples.demo.report import show
from examples.demo.sending import outcomes_of
from examples.models.ollama import Ollama
from handlers.errors import InferenceError
from streams import interrupts
from streams.local.platform import LocalModel, LocalPlatform
from streams.local.status import StatusLines

_PLAIN_WIDTH = 100
"""Columns where the output is no terminal."""


def main() -> int:
    """Run the demo in this terminal and return its exit status."""
    # What matters of it is raised; an interrupted connection is only noise.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    terminal = Console()
    try:
        return _run(terminal if terminal.is_terminal else Console(width=_PLAIN_WIDTH))
    except (StackError, PreparationError, InferenceError) as error:
        Console(stderr=True).print(Text.assemble(("✗ ", "bold red"), str(error)))
        return 1
    except KeyboardInterrupt:
        return interrupts.INTERRUPTED


def _run(console: Console) -> int:
    overrides: dict[str, dict[str, Any]] = {
        # The broker's work on fetches that find nothing would slow the models down on a small machine.
        "kafka": {"fetch_max_wait_ms": 100},
    }

    def models() -> tuple[LocalModel, ...]:
        lines.pause()
        console.rule("models")
        made = demo_models(console)
        console.rule("servers")
        lines.resume()
        return made

    lines = StatusLines(console)
    stack = LocalStack(Path(".local"), more=[Ollama], on_status=lines.show)
    with lines, LocalPlatform(stack, models=models, overrides=overrides) as platform:
        os.environ["INFERSTREAM_CONFIG"] = str(platform.config_path)  # for the Python call
        plan = planned(BUCKET)
        _upload(platform, plan.files)
        lines.pause()
        console.rule("requests")
        with AnswersProgress(console, plan.cases) as progress:
            outcomes = interrupts.run(outcomes_of(platform, plan.cases, progress.tell))
        from engines import model_manager  # not before: it has the settings of its first use

        model_manager.delete_model(OLLAMA_TEXT)  # its server ends with the demo, while others serve later
        console.rule("stopping")
        lines.resume()
    console.rule("answers")
    return show(console, plan.cases, outcomes)


def _upload(platform: LocalPlatform, files: Mapping[str, bytes]) -> None:
    store = platform.stack.s3.client()
    try:
        for key, content in files.items():
            store.put_object(Bucket=BUCKET, Key=key, Body=content)
    finally:
        store.close()
