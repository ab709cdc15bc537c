"""One address, fetched as that of a request."""

from __future__ import annotations

from typing import Any

from handlers.media import Media
from streams.media import MediaFetcher


def fetched(fetcher: MediaFetcher, value: Any, *, deadline_s: float | None = None) -> Media:
    """Return the media at one address."""
    media: Media = fetcher.resolve({"media": value}, ["media"], deadline_s=deadline_s)["media"]
    return media
