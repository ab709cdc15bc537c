"""One table: which HTTP status a result has.

A success is 200. A failure has the status of its error's code, below. What HTTP itself refuses has the code
INVALID_REQUEST and its own status: 404 no such path, 405 not this method (with Allow), 408 a body that does
not arrive in time, 413 a body above http.max_body_bytes. So 404 on /inference/infer always means the model.
"""

from __future__ import annotations

_CODES = {
    400: (
        *("INVALID_REQUEST", "INVALID_INPUT", "INVALID_OPTION", "UNDECODABLE"),
        *("UNKNOWN_TASK", "UNKNOWN_ENGINE", "MODEL_MISMATCH"),
        # The address is part of the request, so what is wrong with it is wrong with the request.
        *("MEDIA_NOT_FOUND", "MEDIA_FORBIDDEN", "MEDIA_CORRUPT"),
    ),
    404: ("UNKNOWN_MODEL",),
    413: ("MEDIA_TOO_LARGE", "RESULT_TOO_LARGE"),
    429: ("BUSY",),
    500: ("MODEL_LOAD_FAILED", "INFERENCE_FAILED", "INTERNAL_ERROR"),
    503: (
        *("MEDIA_UNAVAILABLE", "REGISTRY_UNAVAILABLE", "ENGINE_UNAVAILABLE"),
        *("OUT_OF_MEMORY", "INFERENCE_TIMEOUT"),
        # A caller who withdrew has closed the connection; what is left is a worker that stops.
        "CANCELLED",
    ),
    504: ("DEADLINE_EXCEEDED",),
}

STATUS = {code: status for status, codes in _CODES.items() for code in codes}
"""The status of each code of `handlers.errors`."""

_RETRY_AFTER_S = {429: 1, 503: 5}


def status_of(code: str) -> int:
    """Return the status of a failure with that code; a code of somebody else's is a fault of the server's."""
    return STATUS.get(code, 500)


def retry_after(status: int) -> dict[str, str]:
    """Return the header that says when to try again, in seconds, for a status where that can help."""
    return {"Retry-After": str(_RETRY_AFTER_S[status])} if status in _RETRY_AFTER_S else {}
