"""Downloads media from https:// addresses of allowed hosts."""

from __future__ import annotations

from collections.abc import Collection

import httpx

from handlers.errors import InferenceError, InvalidInput, MediaForbidden, MediaNotFound
from streams.media.addresses import shown
from streams.media.fetch import Changed, Fetch, Interrupted
from streams.media.http_get import HttpClient, TransferFailed, proxy_for

_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 10.0
_MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DEFAULT_PORTS = {"https": 443, "http": 80}


class WebStore:
    """A client for the allowed hosts; thread-safe.

    An entry of `allowed_hosts` is a host, which allows the default port, or host:port. A few redirects are followed,
    each only to an address that is itself allowed.
    """

    def __init__(self, allowed_hosts: Collection[str], *, schemes: Collection[str] = ("https",)) -> None:
        self._hosts = frozenset(host.lower() for host in allowed_hosts)
        self._schemes = frozenset(schemes)
        self._http = HttpClient(connect_timeout_s=_CONNECT_TIMEOUT_S, read_timeout_s=_READ_TIMEOUT_S)

    def url(self, address: str, source: str) -> httpx.URL:
        """Return `address` as a URL; nothing is sent.

        Raises:
            InvalidInput: permanent; not a valid URL, or one with a user name in it.
            MediaForbidden: permanent; another scheme, host or port than is allowed.
        """
        try:
            url = httpx.URL(address)
        except (httpx.InvalidURL, ValueError):
            raise InvalidInput(f"{source} is not a valid URL; write https://host/path") from None
        self._check(url, source)
        return url

    def get(self, url: httpx.URL, fetch: Fetch) -> None:
        """Send one GET, as `streams.media.download.Get`, and follow allowed redirects."""
        source, headers = fetch.source, {"Accept-Encoding": "identity", **fetch.condition()}
        for _ in range(_MAX_REDIRECTS + 1):
            try:
                answer = self._http.get(str(url), headers, fetch, proxy=proxy_for(str(url)), reads_refusals=False)
            except TransferFailed as error:
                raise Interrupted(f"{error} ({url.host})") from None
            if answer.is_success:
                return
            if answer.status not in _REDIRECTS or "location" not in answer.headers:
                raise _refusal(answer.status, url.host, source)
            url = self._target(url, answer.headers["location"], source)
        raise MediaForbidden(f"{source} redirects more than {_MAX_REDIRECTS} times; send the final address")

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _target(self, url: httpx.URL, location: str, source: str) -> httpx.URL:
        """Return where an answer of `url` redirects to, if it may be fetched."""
        try:
            target = url.join(location.encode("latin-1").decode(errors="replace")).copy_with(fragment=None)
        except (httpx.InvalidURL, ValueError):
            raise InvalidInput(
                f"{source}, which redirects to what is not a valid URL; send the final address"
            ) from None
        self._check(target, f"{source}, which redirects to {shown(str(target))},")
        return target

    def _check(self, url: httpx.URL, source: str) -> None:
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


def _refusal(status: int, host: str, source: str) -> Exception:
    if status in (412, 416):
        return Changed()
    if status >= 500 or status in (408, 425, 429):
        return Interrupted(f"{status} from {host}")
    error: type[InferenceError] = MediaNotFound if status in (404, 410) else MediaForbidden
    return error(f"{source}: {host} answers {status}; check the address, and its expiry if signed")
