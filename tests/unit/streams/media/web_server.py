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
    return status(200, content, **headers)


def status(code: int, content: bytes = b"", **headers: str) -> Answer:
    """Return an answer of `code`; a Content_Length in `headers` is sent whatever `content` is."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in ({"Content_Length": str(len(content))} | headers).items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(content)

    return answer


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
