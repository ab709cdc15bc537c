"""A hub that answers on this machine, and an empty cache of the hub's client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import close_session

from tests.unit.engines.models.hub.fake_hub import COMMIT, FakeHub


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that answers on this machine, as the hub's client asks it."""
    state = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            name = path.partition(f"/resolve/{COMMIT}/")[2]
            if path in state.refusals:
                status, code = state.refusals[path]
                self.send_response(status)
                self.send_header("X-Error-Message" if " " in code else "X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if path.startswith("/api/models/org/tiny"):
                state.asked.append(path)
                siblings = [{"rfilename": one, "size": len(held)} for one, held in state.files.items()]
                about = {"id": "org/tiny", "sha": COMMIT, "siblings": siblings, **state.about}
                body = json.dumps(about).encode()
            elif name in state.files and state.is_open_to(self.headers.get("Authorization")):
                body = state.files[name]
                if with_body:
                    state.fetched.append(path)
            elif name in state.files:
                self.send_response(401)
                self.send_header("X-Error-Code", "GatedRepo")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", f'"{sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body and path in state.stalls:
                self.wfile.write(body[:1])
                self.wfile.flush()
                state.goes_on.wait()
            elif with_body:
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()
    yield state
    state.goes_on.set()
    server.shutdown()
    server.server_close()
    thread.join()
    close_session()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the hub's client keeps what it downloaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"
