"""Asks a server on this machine over HTTP, to see whether it is up."""

from __future__ import annotations

import http.client

from deploy.local.ports import HOST

_TIMEOUT_S = 2.0


def http_get(port: int, path: str) -> tuple[int, bytes]:
    """Return status and body of a GET on this machine, asked without any proxy.

    Raises:
        OSError: retryable; nobody answered, or not in HTTP.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"port {port} does not speak HTTP: {error}") from error
    finally:
        connection.close()
