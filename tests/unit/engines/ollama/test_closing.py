"""The engine ends: closed, dropped or forgotten, with requests under way."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Collection
from pathlib import Path

import pytest

from engines.config.settings import OllamaSettings
from engines.ollama.engine import OllamaEngine
from handlers.errors import EngineUnavailable
from tests.processes import wait_until
from tests.unit.engines.ollama import fake_faults as faults
from tests.unit.engines.ollama.engines import GENERATE, HELLO, engine_for
from tests.unit.engines.ollama.fake_ollama import FakeOllama


def test_closing_fails_what_is_under_way_as_retryable_and_ends_the_thread(fake: FakeOllama) -> None:
    others = loop_threads()
    with engine_for(fake.url, max_concurrent=1) as engine:
        model = engine.load_model("echo")
        fake.fail(GENERATE, faults.silent)
        futures = [engine.submit(model, HELLO, {}) for _ in range(2)]
        assert wait_until(lambda: fake.running == 1)
        engine.close()
        for future in futures:
            with pytest.raises(EngineUnavailable, match="was closed meanwhile"):
                future.result(20)
        with pytest.raises(EngineUnavailable, match="is closed"):
            engine.submit(model, HELLO, {})
        assert wait_until(lambda: fake.disconnects == 1)
    assert wait_until(lambda: not loop_threads(but=others))


def test_closing_fails_as_retryable_even_what_has_not_begun(fake: FakeOllama) -> None:
    with engine_for(fake.url, max_concurrent=1) as engine:
        model = engine.load_model("echo")
        fake.fail(GENERATE, faults.silent)
        futures = [engine.submit(model, HELLO, {}) for _ in range(200)]
        engine.close()
        for future in futures:
            with pytest.raises(EngineUnavailable, match="was closed meanwhile"):
                future.result(20)


def test_a_request_that_its_caller_cancels_before_it_has_begun_ends_as_cancelled(fake: FakeOllama) -> None:
    with engine_for(fake.url, max_concurrent=1) as engine:
        model = engine.load_model("echo")
        fake.fail(GENERATE, faults.silent)
        futures = [engine.submit(model, HELLO, {}) for _ in range(20)]
        for future in futures:
            assert future.cancel()
        assert all(future.cancelled() for future in futures)
        assert wait_until(lambda: fake.running == 0)


def test_dropping_the_engine_ends_its_thread(fake: FakeOllama) -> None:
    import gc

    others = loop_threads()
    engine = OllamaEngine(OllamaSettings(api_base=fake.url))
    engine.load_model("echo")
    assert loop_threads(but=others)
    del engine
    gc.collect()
    assert wait_until(lambda: not loop_threads(but=others))


@pytest.mark.processes
def test_a_process_that_forgets_to_close_ends_quietly(fake: FakeOllama) -> None:
    script = (
        "import sys\n"
        "from engines.ollama.engine import OllamaEngine\n"
        "from engines.config.settings import OllamaSettings\n"
        "engine = OllamaEngine(OllamaSettings(api_base=sys.argv[1]))\n"
        "model = engine.load_model('echo')\n"
        "print(engine.infer(model, {'inputs': 'bye'}, {})['generated_text'])\n"
        "engine.submit(model, {'inputs': 'never answered'}, {})\n"
    )
    fake.fail(GENERATE, faults.byte_by_byte, faults.stalled)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, fake.url],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[4],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "You said: bye\n", "")


def loop_threads(*, but: Collection[threading.Thread] = ()) -> list[threading.Thread]:
    """Return the threads of engines; other tests may have left some, which are given as `but`."""
    return [t for t in threading.enumerate() if t.name == "ollama loop" and t not in but]
