"""Reads a remote object to its end, and resumes after interruptions."""

from __future__ import annotations

import random
from collections.abc import Callable

from handlers.errors import MediaUnavailable
from handlers.media import Media
from streams.media.content_coding import decoded
from streams.media.fetch import Changed, Fetch, Interrupted

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


Get = Callable[[Fetch], None]
"""Sends one GET of an object under the fetch's condition; passes the headers and body of a success to the fetch.

Raises Interrupted, Changed, or a permanent MediaError, and what the fetch raises.
"""


def download(get: Get, fetch: Fetch) -> Media:
    """Return the whole object; tries again and resumes until it is complete or the fetch's deadline passes.

    Raises:
        MediaTooLarge: permanent; by the declared size, before the body is read, or while reading.
        MediaUnavailable: retryable; not complete within the deadline, or changed twice while being read.
        MediaNotFound, MediaForbidden, MediaCorrupt, InvalidInput: permanent; as the remote says.
    """
    has_changed = False
    fruitless = 0
    while True:
        fetch.check()
        fetch.tries += 1
        received_before = fetch.received
        try:
            get(fetch)
            content = fetch.content()
            return fetch.media(decoded(content, fetch.coding, fetch) if fetch.coding else content)
        except Changed:
            if has_changed:
                raise MediaUnavailable(
                    f"{fetch.source} was overwritten twice while it was read; write each version under a key "
                    "of its own, or send the request again when it is complete"
                ) from None
            has_changed = True
            fetch.start_over()
        except Interrupted as fault:
            fetch.last_fault = str(fault)
            fruitless = fruitless + 1 if fetch.received <= received_before else 0
            if not fetch.can_resume:
                fetch.start_over()
            fetch.pause(_pause_s(fruitless))


def _pause_s(fruitless: int) -> float:
    """Return a random pause whose mean doubles with every try that brought nothing."""
    longest: float = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(fruitless, 10))
    return random.uniform(longest / 4, longest)
