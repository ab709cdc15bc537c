"""A loopback web server whose answers a test writes, for the faults no well-behaved server shows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class WebServer:
    """Answers each GET by calling `answers[path]`; `requests` are the (path, headers) that came."""

    def __init__(self, host: str, answers: dict[str, Answer]) -> None:
        self.host = host
        self.answers = answers
        self.requests: list[tuple[str, dict[str, str]]] = []

    def url(self, path: str) -> str:
        return f"http://{self.host}{path}"


def body(content: bytes, **headers: str) -> Answer:
    """Return an answer of 200 with `content`; underscores in header names stand for hyphens."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        _send_headers(request, {"Content_Length": str(len(content))} | headers)
        request.wfile.write(content)

    return answer


def status(code: int, **headers: str) -> Answer:
    """Return an answer without a body."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        _send_headers(request, {"Content_Length": "0"} | headers)

    return answer


def _send_headers(request: BaseHTTPRequestHandler, headers: dict[str, str]) -> None:
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()


@contextmanager
def web_server() -> Iterator[WebServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            served.requests.append((self.path, dict(self.headers)))
            with suppress(OSError):  # the client has left, as some tests want it to
                served.answers.get(path, status(404))(self)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = WebServer(f"127.0.0.1:{server.server_port}", {})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
