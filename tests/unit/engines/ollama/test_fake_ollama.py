"""The official client accepts the fake server, so what the engine learns of it holds for a real one."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import ollama
import pytest
from PIL import Image

from tests.unit.engines.ollama.fake_faults import Refusal, error_line
from tests.unit.engines.ollama.fake_models import FakeModel
from tests.unit.engines.ollama.fake_ollama import FakeOllama


@pytest.fixture
def official(fake: FakeOllama) -> Iterator[ollama.Client]:
    client = ollama.Client(fake.url, trust_env=False)
    yield client
    client.close()  # type: ignore[no-untyped-call]


def test_the_official_client_generates(official: ollama.Client) -> None:
    chunks = list(official.generate("echo", "good morning", stream=True, options={"num_predict": 3}))
    assert "".join(chunk.response or "" for chunk in chunks) == "You said: good"
    assert [chunk.done for chunk in chunks] == [False, False, False, True]
    last = chunks[-1]
    assert (last.done_reason, last.prompt_eval_count, last.eval_count) == ("length", 2, 3)
    assert (last.load_duration, last.context) == (1_000_000_000, [1, 2, 3])
    assert official.generate("echo", "").done_reason == "load"
    assert official.generate("echo", "", keep_alive=0).done_reason == "unload"


def test_the_official_client_chats_with_thought_and_images(fake: FakeOllama, official: ollama.Client) -> None:
    fake.models["wise"] = FakeModel(("completion", "vision", "thinking"))
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (255, 0, 0)).save(file, "PNG")
    image = base64.b64encode(file.getvalue()).decode()
    messages = [{"role": "user", "content": "What is it?", "images": [image]}]
    chunks = list(official.chat("wise", messages, stream=True, think=True))
    assert "".join(chunk.message.content or "" for chunk in chunks) == "I see PNG 3x2 (255, 0, 0)"
    assert "".join(chunk.message.thinking or "" for chunk in chunks) == "Hmm, an echo."
    assert chunks[-1].done_reason == "stop"


def test_the_official_client_pulls_shows_and_lists(fake: FakeOllama, official: ollama.Client) -> None:
    fake.library["new"] = FakeModel(size=1000)
    progress = list(official.pull("new", stream=True))
    assert progress[0].status == "pulling manifest"
    assert progress[-1].status == "success"
    assert [one.completed for one in progress if one.digest] == [None, 500, 1000]
    assert official.show("new").capabilities == ["completion"]
    assert {model.model for model in official.list().models} == {"echo", "new"}
    official.generate("new", "hello")
    assert [model.name for model in official.ps().models] == ["new"]


def test_the_official_client_hears_the_errors(fake: FakeOllama, official: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="'gone' not found") as missing:
        official.generate("gone", "hello")
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="file does not exist"):
        list(official.pull("gone", stream=True))
    with pytest.raises(ollama.ResponseError, match="does not support thinking"):
        official.generate("echo", "hello", think=True)
    with pytest.raises(ollama.ResponseError, match='"num_ctx" must be of type integer'):
        official.generate("echo", "hello", options={"num_ctx": 1.5})
    fake.fail("/api/generate", Refusal(503, "server busy"), error_line("runner died"))
    with pytest.raises(ollama.ResponseError, match="server busy"):
        list(official.generate("echo", "hello", stream=True))
    with pytest.raises(ollama.ResponseError, match="runner died"):
        list(official.generate("echo", "hello", stream=True))
