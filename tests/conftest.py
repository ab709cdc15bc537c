"""What all tests share: a quiet, single-threaded environment, real weights and recordings."""

from __future__ import annotations

import gc
import os
import signal
import sys

# Read once, when torch and the tokenizers are first imported, so this comes before everything else.
os.environ.update(
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="PASSIVE",
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
)

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest
import structlog
from structlog.typing import WrappedLogger

from deploy.models import CATALOGUE, prepare
from handlers.logger import PROCESSORS
from streams.logs import QUIET_LIBRARIES
from tests import leaks
from tests.recordings import Recording, librivox_recordings

# A worker's environment has neither. Here MLflow's server brings them along, and transformers would spend
# seconds on importing what it finds.
for absent in ("sklearn", "scipy"):
    sys.modules[absent] = None  # type: ignore[assignment]

# While tests are imported next to nothing is garbage, and to look for it takes seconds.
gc.disable()

# Programs that tests start inherit it, and where the tests run in the background a shell may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _print_line(_logger: WrappedLogger, _method: str, line: Any) -> NoReturn:
    print(line)  # noqa: T201
    raise structlog.DropEvent


# Tests read every line, of whatever level, as it is printed; `structlog.testing.capture_logs` takes these processors.
PROCESSORS[:] = [
    structlog.processors.add_log_level,
    leaks.note_errors,
    structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    _print_line,
]
structlog.configure(processors=PROCESSORS)

# A run must be red for what changed, not by chance; --hypothesis-profile=default looks where none has looked yet.
hypothesis.settings.register_profile(
    "the same every time",
    derandomize=True,
    deadline=None,  # on a busy machine any example is slow
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("the same every time")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names that differ from process to process: those that share the tests out go by names."""
    if varying := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"give these ids that hold no address: {', '.join(varying)}")


def pytest_collection_finish() -> None:
    """Keep the garbage collector from what the tests have imported: a full collection takes it a second."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Undo what `configure_logging` did in the test, which much of the product calls."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    config, processors = structlog.get_config(), PROCESSORS[:]
    levels = {name: logging.getLogger(name).level for name in QUIET_LIBRARIES}
    yield
    structlog.configure(**config)
    PROCESSORS[:] = processors
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    for name, before in {"root": level, **levels}.items():
        if logging.getLogger(name).level != before:  # to set one costs a look at every logger there is
            logging.getLogger(name).setLevel(before)


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The folder of SmolLM2-135M-Instruct; read only."""
    return prepare(CATALOGUE["smollm2-135m-instruct"])


@pytest.fixture(scope="session")
def whisper_tiny_path() -> Path:
    """The folder of Whisper tiny.en; read only."""
    return prepare(CATALOGUE["whisper-tiny.en"])


@pytest.fixture(scope="session")
def whisper_base_path() -> Path:
    """The folder of Whisper base, which knows many languages; read only."""
    return prepare(CATALOGUE["whisper-base"])


@pytest.fixture(scope="session")
def pp_ocr_path() -> Path:
    """The folder of PP-OCRv5 mobile, detection and recognition; read only."""
    return prepare(CATALOGUE["pp-ocrv5-mobile"])


@pytest.fixture(scope="session")
def librivox_clips() -> tuple[Recording, ...]:
    """Two spoken sentences with `.path` and `.transcript`, the shorter first."""
    return librivox_recordings()
