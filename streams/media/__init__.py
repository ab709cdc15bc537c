"""Fetches media from S3, data: URIs, allowed hosts and allowed folders, within limits of bytes and time.

- fetcher: MediaFetcher, which the pipeline calls: threads, deadlines, whole requests
- fetch: one fetch under way: its deadline, its allowance of bytes, the bytes so far
- addresses: parses addresses, and shortens them for messages
- download: reads a remote object to its end and resumes after interruptions
- s3, web: the two kinds of remote object
- local: files under allowed roots
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from streams.media.fetcher import MediaFetcher

__all__ = ["MediaFetcher", "fetch_by_settings"]


def fetch_by_settings(
    data: Mapping[str, Any], fields: Sequence[str], *, trust_local_paths: bool = False
) -> dict[str, Any]:
    """Return what `MediaFetcher.resolve` returns, by the settings of this process.

    Blocks; from any thread. Its connections are kept until the process ends. `trust_local_paths` is for callers who
    may read every file that this process can read.

    Raises:
        InferenceError: as `MediaFetcher.resolve`.
    """
    return _fetcher(trust_local_paths).resolve(data, fields)


@cache
def _fetcher(trust_local_paths: bool) -> MediaFetcher:
    from engines.configuration import load
    from streams.settings import Settings

    settings = load(Settings).settings
    return MediaFetcher(settings.media, settings.s3, trust_local_paths=trust_local_paths)
