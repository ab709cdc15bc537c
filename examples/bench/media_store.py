"""Puts files on the S3 store of the stack, as whoever sends requests about them would have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from deploy.local import LocalStack
from deploy.local.s3 import BUCKET

_THREADS = 8


def upload(stack: LocalStack, files: Sequence[bytes], *, folder: str, suffix: str) -> list[str]:
    """Upload `files` under `bench/folder/` and return their addresses, s3://bucket/key, in order."""
    bucket = BUCKET
    store = stack.s3.client()

    def put(numbered: tuple[int, bytes]) -> str:
        number, content = numbered
        key = f"bench/{folder}/{number:05d}.{suffix}"
        store.put_object(Bucket=bucket, Key=key, Body=content)
        return f"s3://{bucket}/{key}"

    try:
        with ThreadPoolExecutor(_THREADS) as threads:
            addresses: Iterator[str] = threads.map(put, enumerate(files))
            return list(addresses)
    finally:
        store.close()
