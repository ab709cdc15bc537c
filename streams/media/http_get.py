"""HTTP GETs by libcurl, which releases the interpreter's lock while it waits and reads."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import pycurl

from streams.media.fetch import Fetch

_BUFFER_BYTES = 256 * 1024
_MOST_OF_A_REFUSAL = 64 * 1024
"""Bytes to keep of the body of an answer that is not a success."""

_SUPPRESS_CONNECT_HEADERS = 265
"""An option of libcurl that pycurl has no name for: headers of a proxy are not part of the answer."""

_LOOKS_S = 0.05
"""Time between two checks of the clock and of the fetch, as libcurl asks for each piece."""

_SUCCESSES = (200, 206)
_ENDS_A_HEADER = frozenset("\r\n\0")

_CALLBACKS = (pycurl.PREREQFUNCTION, pycurl.HEADERFUNCTION, pycurl.WRITEFUNCTION, pycurl.XFERINFOFUNCTION)


class TransferFailed(Exception):
    """Raised when no answer came, or not all of it; the text says why."""


class HttpClient:
    """Sends GETs over connections that are kept open for the next.

    Thread-safe: each call has a connection for itself, in the caller's thread, which it blocks. Redirects are
    returned, not followed.
    """

    def __init__(self, *, connect_timeout_s: float, read_timeout_s: float, ca_file: str | None = None) -> None:
        """`read_timeout_s` is the longest silence of a server.

        `ca_file` is a file or folder of trusted certificates; by default the one that SSL_CERT_FILE or SSL_CERT_DIR
        names, or else certifi's.
        """
        self._connect_timeout_ms = max(1, round(connect_timeout_s * 1000))
        self._read_timeout_s = read_timeout_s
        named = ca_file or os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
        self._trusted = named or certifi.where()
        self._idle: deque[pycurl.Curl] = deque()
        self._closed = False

    def get(
        self,
        url: str,
        headers: Mapping[str, str],
        fetch: Fetch,
        *,
        proxy: str | None = None,
        reads_refusals: bool = True,
    ) -> Transfer:
        """Send a GET for `url`, percent-encoded, and return the answer when it is complete.

        A success goes to `fetch`, which is checked at least about once a second from the connection on; what it
        raises ends the transfer. The environment is not asked for a proxy. Unless `reads_refusals`, the body of an
        answer that is not a success is not read.

        Raises:
            TransferFailed: no connection, no answer, a body that ended early or stalled, or a header that cannot be
                sent. The text holds no secrets.
            Exception: what the fetch raised.
        """
        transfer = Transfer(fetch, self._read_timeout_s, reads_refusals)
        lines = [_line(name, value) for name, value in headers.items()]
        curl = self._pop() or self._new()
        try:
            curl.setopt(pycurl.URL, url)
            curl.setopt(pycurl.PROXY, proxy or "")
            curl.setopt(pycurl.HTTPHEADER, lines)
            curl.setopt(pycurl.PREREQFUNCTION, transfer.on_connection)
            curl.setopt(pycurl.HEADERFUNCTION, transfer.on_header)
            curl.setopt(pycurl.WRITEFUNCTION, transfer.on_body)
            curl.setopt(pycurl.XFERINFOFUNCTION, transfer.on_progress)
            try:
                curl.perform()
            except pycurl.error as error:
                transfer.settle(_why(error, proxy))
            return transfer
        finally:
            self._give_back(curl)

    def close(self) -> None:
        """Close the idle connections now, and those in use after it; idempotent."""
        self._closed = True
        while (curl := self._pop()) is not None:
            curl.close()

    def _pop(self) -> pycurl.Curl | None:
        with suppress(IndexError):
            return self._idle.pop()
        return None

    def _give_back(self, curl: pycurl.Curl) -> None:
        for callback in _CALLBACKS:
            curl.unsetopt(callback)  # they refer to the received bytes
        self._idle.append(curl)
        if self._closed:
            self.close()

    def _new(self) -> pycurl.Curl:
        curl = pycurl.Curl()
        curl.setopt(pycurl.NOSIGNAL, 1)  # signals do not work in threads
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.setopt(pycurl.USERAGENT, "inferstream")
        curl.setopt(pycurl.PATH_AS_IS, 1)  # a key may have dots as segments
        curl.setopt(_SUPPRESS_CONNECT_HEADERS, 1)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, self._connect_timeout_ms)
        curl.setopt(pycurl.TCP_KEEPALIVE, 1)
        curl.setopt(pycurl.BUFFERSIZE, _BUFFER_BYTES)
        curl.setopt(pycurl.NOPROGRESS, 0)
        curl.setopt(pycurl.CAPATH if Path(self._trusted).is_dir() else pycurl.CAINFO, self._trusted)
        return curl


class Transfer:
    """One answer: libcurl's callbacks for it, and its outcome; the body of a success is its fetch's.

    libcurl would print and forget an exception of these, so it is kept for `settle`.
    """

    def __init__(self, fetch: Fetch, read_timeout_s: float, reads_refusals: bool) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        """The beginning of the body of an answer that is not a success."""
        self._fetch = fetch
        self._read_timeout_s = read_timeout_s
        self._reads_refusals = reads_refusals
        self._heard = math.inf
        """When the last byte came, or the connection was made; until then libcurl keeps the time."""
        self._looked = -math.inf
        self._is_at_status = True
        self._is_begun = False
        self._error: Exception | None = None

    @property
    def is_success(self) -> bool:
        return self.status in _SUCCESSES

    def on_connection(self, *_: object) -> int:
        self._heard = time.monotonic()
        return pycurl.PREREQFUNC_OK

    def on_header(self, line: bytes) -> int | None:
        """Note a header; return -1 to end the transfer."""
        self._heard = time.monotonic()
        if self._is_begun:
            return None  # a trailer, after the body
        if self._is_at_status:
            self.status, self.headers, self._is_at_status = int(line.split(None, 2)[1]), {}, False
        elif line.strip():
            name, _, value = line.decode("latin-1").partition(":")
            self.headers[name.strip().lower()] = value.strip()
        elif self.status < 200:
            self._is_at_status = True  # another answer will follow
        else:
            self._is_begun = True
            if self.is_success:
                return self._told(self._fetch.begin, self.headers)
            return None if self._reads_refusals else -1
        return None

    def on_body(self, chunk: bytes) -> int | None:
        self._heard = time.monotonic()
        if self.is_success:
            return self._told(self._fetch.take, chunk)
        self.body += chunk[: _MOST_OF_A_REFUSAL - len(self.body)]
        return None

    def on_progress(self, *_: float) -> int | None:
        """Return -1, which ends the transfer, where the rest is not wanted or nothing came for too long."""
        now = time.monotonic()
        if now - self._looked < _LOOKS_S:
            return None
        self._looked = now
        ended = self._told(self._fetch.check)
        if ended is None and now - self._heard > self._read_timeout_s:
            self._error = TransferFailed(f"not a byte came for {self._read_timeout_s:g} s")
            return -1
        return ended

    def settle(self, why: str) -> None:
        """Raise the error of a failed transfer, whose reason libcurl gives as `why`; a refusal is not one, however it
        ends."""
        error, self._error = self._error, None
        try:
            if self.is_success or not self._is_begun:
                raise error or TransferFailed(why)
        finally:
            del error  # else it and these frames refer to each other, and to the received bytes

    def _told(self, told: Callable[..., None], *what: Any) -> int | None:
        """Tell the fetch; return -1 to end the transfer where it raises."""
        try:
            told(*what)
        except Exception as error:  # noqa: BLE001 - raised by `settle`
            self._error = error
            return -1
        return None


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for `url`; none for this machine."""
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.netloc):
        return None
    named = getproxies()
    return named.get(parts.scheme) or named.get("all")


def is_loopback(url: str) -> bool:
    """Return whether `url` is on this machine."""
    return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")


def _line(name: str, value: str) -> bytes:
    """Return a header line to send; its value may be a secret, so no message shows it."""
    if not _ENDS_A_HEADER.isdisjoint(value):
        raise TransferFailed(f"the header {name} would hold a line break or a zero")
    try:
        return f"{name}: {value}".encode("latin-1")
    except UnicodeEncodeError:
        raise TransferFailed(f"the header {name} would hold characters that none can") from None


def _why(error: pycurl.error, proxy: str | None) -> str:
    text = str(error.args[-1])
    if proxy and "proxy" in text.lower():  # it may hold the address with a password
        return f"no use of the proxy (libcurl's error {error.args[0]}); check the one that the environment names"
    return text
