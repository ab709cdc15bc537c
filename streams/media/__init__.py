"""Media fetching: S3, data: URIs, allowed hosts and allowed folders, each within bytes and time.

- fetcher: MediaFetcher, what the pipeline calls: threads, deadlines, whole requests
- fetch: one fetch under way: its clock, its allowance of bytes, how far it got
- addresses: what an address says, and how a message may show it
- download: the loop that reads a remote object to the end, resuming where it broke off
- s3, web: the two kinds of remote object
- local: files under allowed roots
"""

from __future__ import annotations

from streams.media.fetcher import MediaFetcher

__all__ = ["MediaFetcher"]
