"""Replaces the addresses of media in a request's data by the media themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from handlers.errors import (
    InferenceError,
    InvalidInput,
    MediaForbidden,
    MediaNotFound,
    MediaTooLarge,
    MediaUnavailable,
)
from handlers.media import Media, decode_data_uri
from handlers.settings import MediaSettings

FetchMedia = Callable[[str], Media]

_LONGEST_SHOWN = 120


class MediaValues:
    """Turns what a caller wrote in a media field into what handlers take.

    Thread-safe; blocks while it fetches. Bytes, `data:` URIs and paths become `Media`; addresses with another
    scheme go through `fetch`. `Media`, numpy arrays, PIL images and all else stay as they are, for the
    handler to accept or refuse. The media of one request, arrays and PIL images aside, hold at most
    `settings.max_bytes` together.
    `trust_local_paths` opens every path this process can read, as fits a caller in the same process; without
    it only those under `settings.allowed_roots` are read.
    """

    def __init__(
        self, settings: MediaSettings, *, fetch: FetchMedia | None = None, trust_local_paths: bool = False
    ) -> None:
        self._settings = settings
        self._fetch = fetch
        self._trust_local_paths = trust_local_paths

    def resolve(self, data: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
        """Return a copy of `data` with the media in `fields`, and in lists in them, brought here.

        Raises:
            InvalidInput: permanent; a text that is not an address, or one that nothing here can fetch.
            MediaError: the kinds of handlers.errors, MediaUnavailable among them retryable.
        """
        resolved, allowance = dict(data), _Allowance(self._settings.max_bytes)
        for name in fields:
            value = data.get(name)
            if isinstance(value, list | tuple):
                resolved[name] = [
                    self._one(f"data.{name}[{index}]", item, allowance) for index, item in enumerate(value)
                ]
            elif value is not None:
                resolved[name] = self._one(f"data.{name}", value, allowance)
        return resolved

    def _one(self, name: str, value: Any, allowance: _Allowance) -> Any:
        match value:
            case bytes() | bytearray() | memoryview():
                content = bytes(value)
                found = Media(content, f"{name} ({len(content)} bytes)")
            case Path():
                return self._local(name, value, allowance)
            case Media():
                found = value
            case str() if value[:5].lower() == "data:":
                with _at(name):
                    found = decode_data_uri(value, max_bytes=self._settings.max_bytes)
            case str() if value.startswith("file://"):
                return self._local(name, Path(unquote(urlsplit(value).path)), allowance)
            case str() if "://" in value[:16]:
                found = self._fetched(name, value)
            case str():
                return self._local(name, Path(value), allowance)
            case _:
                return value
        allowance.take(name, len(found.content))
        return found

    def _fetched(self, name: str, address: str) -> Media:
        if self._fetch is None:
            raise InvalidInput(
                f"{name} is {_shown(address)}, and nothing in this process fetches "
                f"{address.partition(':')[0]}:// addresses; pass bytes, a path or a data: URI, or send the "
                "request to a worker"
            )
        with _at(name):
            return self._fetch(address)

    def _local(self, name: str, path: Path, allowance: _Allowance) -> Media:
        shown = _shown(str(path))
        try:
            real = path.expanduser().resolve()
        except (OSError, RuntimeError, ValueError):
            raise InvalidInput(f"{name} is {shown}: neither an address nor a path; {_WAYS}") from None
        # Checked before the disk is touched, so that an answer never tells what exists outside the roots.
        roots = self._settings.allowed_roots
        if not self._trust_local_paths and not any(real.is_relative_to(root.resolve()) for root in roots):
            allowed = ", ".join(map(str, roots)) or "none"
            raise MediaForbidden(
                f"{name} is {shown}, a local path outside media.allowed_roots ({allowed}); {_WAYS}, or have "
                "the operator add its folder there"
            )
        try:
            if not real.is_file():
                raise MediaNotFound(f"{name} is {shown}: no such file; {_WAYS}")
            allowance.take(name, real.stat().st_size)
            return Media(real.read_bytes(), str(path))
        except PermissionError:
            raise MediaForbidden(
                f"{name} is {shown}, which this process may not read; change its mode"
            ) from None
        except ValueError:
            raise InvalidInput(f"{name} is {shown}: neither an address nor a path; {_WAYS}") from None
        except OSError as error:
            if error.errno in _NEVER_A_PATH:
                raise InvalidInput(f"{name} is {shown}: neither an address nor a path; {_WAYS}") from None
            raise MediaUnavailable(f"{name} is {shown}, which cannot be read now: {error.strerror}") from None


class _Allowance:
    """Bytes that the media of one request may take together; for one thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._taken = 0

    def take(self, name: str, size: int) -> None:
        """Count the media at `name`.

        Raises:
            MediaTooLarge: permanent; it does not fit beside those counted before.
        """
        if self._taken + size > self._max_bytes:
            beside = f" beside {self._taken} bytes of the request's other media" if self._taken else ""
            raise MediaTooLarge(
                f"{name} has {size} bytes{beside}; media.max_bytes allows {self._max_bytes} a request: send a "
                "smaller or shorter one, or raise media.max_bytes"
            )
        self._taken += size


@contextmanager
def _at(name: str) -> Iterator[None]:
    """Begin the message of an error with the place it is about."""
    try:
        yield
    except InferenceError as error:
        raise type(error)(f"{name}: {error.message}") from error


_WAYS = "give an s3://bucket/key address, a data: URI or an existing file"

_NEVER_A_PATH = frozenset({36})  # ENAMETOOLONG: a text that long was meant as something else


def _shown(value: str) -> str:
    return repr(value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "…")
