"""Media behind https:// addresses, from allowed hosts only, as something to download."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import httpx

from handlers.errors import InferenceError, InvalidInput, MediaCorrupt, MediaForbidden, MediaNotFound
from streams.media.addresses import shown
from streams.media.download import Changed, Interrupted, Reply, extent

_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 10.0
_MAX_REDIRECTS = 3
_DEFAULT_PORTS = {"https": 443, "http": 80}


class WebStore:
    """A client for the allowed hosts; thread-safe.

    An entry of `allowed_hosts` is a host, which allows its scheme's own port, or host:port. Redirects are
    followed a few times, each only to an address that would itself be allowed.
    """

    def __init__(self, allowed_hosts: Collection[str], *, schemes: Collection[str], connections: int) -> None:
        self._hosts = frozenset(host.lower() for host in allowed_hosts)
        self._schemes = frozenset(schemes)
        self._client = httpx.Client(
            timeout=httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=connections),
            headers={"Accept-Encoding": "identity", "User-Agent": "inferstream"},
            follow_redirects=False,
        )

    def object(self, address: str, source: str) -> WebObject:
        """Return the object at `address`; nothing is sent yet.

        Raises:
            InvalidInput: permanent; no valid URL, or one with a user name in it.
            MediaForbidden: permanent; another scheme, host or port than is allowed.
        """
        try:
            url = httpx.URL(address)
        except (httpx.InvalidURL, ValueError):
            raise InvalidInput(f"{source} is no valid URL; write https://host/path") from None
        self.check(url, source)
        return WebObject(self, url, source)

    def check(self, url: httpx.URL, source: str) -> None:
        """Raise unless `url` may be fetched."""
        host = url.raw_host.decode("ascii").lower()
        if url.userinfo or not host:
            raise InvalidInput(f"{source} must name a host and no user; write https://host/path")
        names = {f"{host}:{url.port}"} if url.port else {host, f"{host}:{_DEFAULT_PORTS.get(url.scheme, 0)}"}
        if url.scheme not in self._schemes or names.isdisjoint(self._hosts):
            raise MediaForbidden(
                f"{source} is not at a host and scheme ({', '.join(sorted(self._schemes))}) this worker may "
                "fetch from; send an s3:// address, or add the host to media.allowed_hosts"
            )

    def send(self, url: httpx.URL, headers: dict[str, str], source: str) -> httpx.Response:
        """Return the answer to a GET, its body unread, after following what redirects are allowed."""
        for _ in range(_MAX_REDIRECTS + 1):
            answer = self._client.send(self._client.build_request("GET", url, headers=headers), stream=True)
            if answer.next_request is None:
                return answer
            answer.close()
            url = answer.next_request.url
            self.check(url, f"{source}, which redirects to {shown(str(url))},")
        raise MediaForbidden(f"{source} redirects more than {_MAX_REDIRECTS} times; send the final address")

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


class WebObject:
    """One object; a `streams.media.download.Remote`."""

    def __init__(self, store: WebStore, url: httpx.URL, source: str) -> None:
        self._store = store
        self._url = url
        self._source = source

    @contextmanager
    def open(self, offset: int, etag: str | None) -> Iterator[Reply]:
        headers = {"Range": f"bytes={offset}-", "If-Match": etag} if offset and etag else {}
        try:
            answer = self._store.send(self._url, headers, self._source)
            try:
                if answer.status_code not in (200, 206):
                    raise self._refusal(answer.status_code)
                if answer.headers.get("content-encoding", "identity") != "identity":
                    raise MediaCorrupt(f"{self._source} comes compressed though it was asked for as it is")
                start, total = extent(answer.headers.get("content-range"), _length(answer))
                tag: str | None = answer.headers.get("etag")
                chunks = answer.iter_raw()  # without a size, each piece as it arrives
                yield Reply(
                    offset=start,
                    total=total,
                    etag=None if tag is None or tag.startswith("W/") else tag,
                    content_type=answer.headers.get("content-type"),
                    read=lambda: next(chunks, b""),
                )
            finally:
                answer.close()
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise Interrupted(f"{type(error).__name__} from {self._url.host}") from None

    def _refusal(self, status: int) -> Exception:
        host = self._url.host
        if status in (412, 416):
            return Changed()
        if status >= 500 or status in (408, 425, 429):
            return Interrupted(f"{status} from {host}")
        error: type[InferenceError] = MediaNotFound if status in (404, 410) else MediaForbidden
        return error(f"{self._source}: {host} answers {status}; check the address, and its expiry if signed")


def _length(answer: httpx.Response) -> int | None:
    length = answer.headers.get("content-length", "")
    return int(length) if length.isdigit() else None
