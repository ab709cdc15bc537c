"""Downloads that stop in the middle: what tells that they get on, and that nobody waits for one without end."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from engines.cache.loader import ModelLoading
from engines.config.settings import CacheSettings, MlflowSettings
from engines.deadlines import Patience
from engines.guard import GivenUp, Guard
from engines.models import model_files
from engines.models.flavours import digest_of
from engines.models.model_files import ModelFiles
from engines.models.model_manager import ModelManager
from engines.models.resolved_model import ResolvedModel
from handlers.errors import InferenceError, RegistryUnavailable
from tests.processes import wait_until
from tests.unit.engines.parts import ShoutEngine

MODEL = ResolvedModel("m", "1", "mlflow-artifacts:/1/models/m", {})
BRIEF_S = 0.5


class Peer:
    """Sends a file in pieces, one whenever it is told to, and stops in between."""

    def __init__(self) -> None:
        self.sent = 0
        self._next = threading.Semaphore(0)
        self._is_over = False

    def download(self, _source: str, folder: Path) -> Path:
        while not self._is_over:
            with (folder / "weights").open("ab") as file:
                file.write(b"x")
            self.sent += 1
            self._next.acquire()
        return folder

    def send(self) -> None:
        self._next.release()

    def end(self) -> None:
        self._is_over = True
        self._next.release()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.end()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "_LOOK_S", 0.02)


def test_each_piece_of_a_download_is_a_sign_of_life_and_silence_is_none(tmp_path: Path, peer: Peer) -> None:
    files = ModelFiles(CacheSettings(directory=tmp_path), (), peer.download)
    assert files.last_sign(MODEL) == 0.0
    thread = threading.Thread(target=files.acquire, args=(MODEL,))
    thread.start()
    try:
        for _ in range(3):
            sent, before = peer.sent, files.last_sign(MODEL)
            peer.send()
            wait_until(lambda sent=sent: peer.sent > sent)  # type: ignore[misc]
            wait_until(lambda before=before: files.last_sign(MODEL) > before)  # type: ignore[misc]
        before = files.last_sign(MODEL)
        threading.Event().wait(5 * model_files._LOOK_S)
        assert files.last_sign(MODEL) == before
    finally:
        peer.end()
        thread.join()
    assert files.last_sign(MODEL) == 0.0


@pytest.mark.logs_errors("call_stuck")
def test_a_load_whose_download_stops_is_given_up(tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.models.mlflow_registry.MlflowRegistry.download", lambda _, *to: peer.download(*to))
    models = ModelManager(MlflowSettings(), CacheSettings(directory=tmp_path))
    guard = Guard(Patience(BRIEF_S))
    try:
        with pytest.raises(GivenUp, match=r"the load of .*m/1 did not respond") as caught:
            ModelLoading("shouter", "shout", MODEL, ShoutEngine(), models.files, guard=guard).load(lambda *_: None)
        assert caught.value.retryable
        peer.end()
        wait_until(lambda: not guard.stuck)
    finally:
        guard.close()


def test_each_file_of_a_digest_is_a_sign_of_life(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    signs: list[int] = []
    digest_of(tmp_path, lambda: signs.append(1))
    assert len(signs) == 2


@pytest.fixture
def stalling_server() -> Iterator[str]:
    """An MLflow server that sends the first byte of a file, and no more until the test is over."""
    is_over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_listing = "?path=" in self.path
            files = [{"path": "weights", "is_dir": False, "file_size": 5}]
            body = json.dumps({"files": files}).encode() if is_listing else b"12345"
            self.send_response(200 if "mlflow-artifacts" in self.path else 404)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body if is_listing else body[:1])
            self.wfile.flush()
            if not is_listing:
                is_over.wait()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    is_over.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.waits
def test_a_file_of_mlflow_that_does_not_end_may_be_tried_again(
    tmp_path: Path, stalling_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "put back at the end")
    settings = MlflowSettings(tracking_uri=stalling_server, timeout_s=1, max_retries=0)
    models = ModelManager(settings, CacheSettings(directory=tmp_path))
    with pytest.raises(InferenceError) as caught:
        ModelLoading("shouter", "shout", MODEL, ShoutEngine(), models.files).load(lambda *_: None)
    assert type(caught.value) is RegistryUnavailable, caught.value
    assert caught.value.retryable
