"""One table: which HTTP status a result has.

A success is 200. A failure has the status of its error's code, below. What HTTP itself refuses has the code
INVALID_REQUEST and its own status: 404 no such path, 405 not this method (with Allow), 408 a body that does
not arrive in time, 413 a body above http.max_body_bytes. So 404 on /inference/infer always means the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

STATUS: Mapping[str, int] = MappingProxyType(
    {
        "INVALID_REQUEST": 400,
        "INVALID_INPUT": 400,
        "INVALID_OPTION": 400,
        "UNKNOWN_TASK": 400,
        "UNKNOWN_ENGINE": 400,
        "UNKNOWN_MODEL": 404,
        "MODEL_MISMATCH": 400,
        "UNDECODABLE": 400,
        # The address is part of the request, so what is wrong with it is wrong with the request.
        "MEDIA_NOT_FOUND": 400,
        "MEDIA_FORBIDDEN": 400,
        "MEDIA_TOO_LARGE": 413,
        "MEDIA_CORRUPT": 400,
        "MEDIA_UNAVAILABLE": 503,
        "REGISTRY_UNAVAILABLE": 503,
        "ENGINE_UNAVAILABLE": 503,
        "MODEL_LOAD_FAILED": 500,
        "INFERENCE_FAILED": 500,
        "OUT_OF_MEMORY": 503,
        "INFERENCE_TIMEOUT": 503,
        "DEADLINE_EXCEEDED": 504,
        # A caller who withdrew has closed the connection; what is left is a worker that stops.
        "CANCELLED": 503,
        "BUSY": 429,
        "RESULT_TOO_LARGE": 413,
        "INTERNAL_ERROR": 500,
    }
)
"""The status of each code of `handlers.errors`."""

_RETRY_AFTER_S = {429: 1, 503: 5}


def status_of(code: str) -> int:
    """Return the status of a failure with that code; a code of somebody else's is a fault of the server's."""
    return STATUS.get(code, 500)


def retry_after(status: int) -> dict[str, str]:
    """Return the header that says when to try again, in seconds, for a status where that can help."""
    seconds = _RETRY_AFTER_S.get(status)
    return {} if seconds is None else {"Retry-After": str(seconds)}
