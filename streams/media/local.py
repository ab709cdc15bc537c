"""Local files as media: only regular files, and only under the allowed roots."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePath

from handlers.errors import InferenceError, MediaForbidden, MediaNotFound, MediaUnavailable, counted
from handlers.media import Media
from streams.media.addresses import ACCEPTED
from streams.media.fetch import CHUNK_BYTES, Fetch


def read_local(path: PurePath, roots: Sequence[Path] | None, fetch: Fetch) -> Media:
    """Return the bytes of a file under `roots`; with None, of any file, also below ~ or relative to this process's
    folder.

    Links and `..` are resolved first, so neither leads out of a root; a caller cannot learn whether a path outside of
    the roots exists. Devices, pipes and folders are refused. The size is checked before reading and while reading.
    Raises the MediaErrors of `MediaFetcher.resolve`.
    """
    real = Path(os.path.realpath(os.path.expanduser(path)))  # noqa: PTH111 - Path's raises for an unknown user
    if roots is not None and not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        raise MediaForbidden(
            f"{fetch.source} is not in a folder this worker may read; put the file on S3 and send its "
            "s3:// address, or add its folder to media.allowed_roots"
        )
    try:
        # Does not follow a link that replaced the file after the check, nor wait for the writer of a pipe.
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise MediaForbidden(f"{fetch.source} is not a regular file; name a file")
            fetch.tries += 1
            if status.st_size > fetch.allowance.left:  # else whatever it holds when its end is reached
                fetch.expect(status.st_size)
            while chunk := os.read(descriptor, CHUNK_BYTES):
                fetch.take(chunk)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _refusal(error, fetch) from None
    return fetch.media(fetch.content())


def _refusal(error: OSError, fetch: Fetch) -> InferenceError:
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return MediaNotFound(f"{fetch.source}: {reason}; check the path as this machine sees it, or write {ACCEPTED}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENODEV):
        return MediaForbidden(f"{fetch.source}: {reason}; make it a regular file this process may read")
    return MediaUnavailable(f"{fetch.source}: {reason} after {counted(fetch.received, 'byte')}; check the disk")
