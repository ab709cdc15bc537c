"""HTTP GETs by libcurl, which leaves the interpreter's lock to others while it waits and reads."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import certifi
import pycurl

_BUFFER_BYTES = 256 * 1024
_MOST_OF_A_REFUSAL = 64 * 1024
"""Bytes to keep of the body of an answer that is no success; more would tell nobody anything."""

_SUPPRESS_CONNECT_HEADERS = 265
"""An option of libcurl that pycurl has no name for: what a proxy says is no part of the answer."""

_CALLBACKS = (pycurl.PREREQFUNCTION, pycurl.HEADERFUNCTION, pycurl.WRITEFUNCTION, pycurl.XFERINFOFUNCTION)


class TransferFailed(Exception):
    """No answer came, or not all of it; the text says why."""


class Receiver(Protocol):
    """Who hears a success; whatever it raises ends the transfer."""

    def begin(self, headers: Mapping[str, str]) -> None:
        """Hear the headers, by names in lower case, before the body."""

    def take(self, chunk: bytes) -> None:
        """Hear the next bytes of the body."""

    def check(self) -> None:
        """Raise where nobody wants the rest; asked about once a second, and more often while bytes come."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered; of a success, `body` is empty, for a receiver has it."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        return _is_success(self.status)


class HttpClient:
    """Sends GETs over connections that stay open for the next.

    Thread-safe: each call has a connection of its own meanwhile, in the caller's thread, which it blocks.
    Redirects are answers like others.
    """

    def __init__(
        self, *, connect_timeout_s: float, read_timeout_s: float, ca_file: str | None = None
    ) -> None:
        """`read_timeout_s` is how long not a byte may come.

        `ca_file` is a file, or a folder, of the certificates to trust; without it, what SSL_CERT_FILE or
        SSL_CERT_DIR names, or else certifi has.
        """
        self._connect_timeout_ms = max(1, round(connect_timeout_s * 1000))
        self._read_timeout_s = read_timeout_s
        named = ca_file or os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
        self._trusted = named or certifi.where()
        self._idle: deque[pycurl.Curl] = deque()
        self._closed = False

    def get(
        self, url: str, headers: Mapping[str, str], receiver: Receiver, *, proxy: str | None = None
    ) -> Answer:
        """Send a GET for `url`, percent-encoded, and return the answer when all of it is here.

        `proxy` is the address of one, for it does not depend on the environment.

        Raises:
            TransferFailed: no connection, no answer, or a body that ended early or stood still.
            Exception: what the receiver raised.
        """
        transfer = _Transfer(receiver, self._read_timeout_s)
        curl = self._take()
        try:
            curl.setopt(pycurl.URL, url)
            curl.setopt(pycurl.PROXY, proxy or "")
            curl.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in headers.items()])
            curl.setopt(pycurl.PREREQFUNCTION, transfer.on_connection)
            curl.setopt(pycurl.HEADERFUNCTION, transfer.on_header)
            curl.setopt(pycurl.WRITEFUNCTION, transfer.on_body)
            curl.setopt(pycurl.XFERINFOFUNCTION, transfer.on_progress)
            try:
                curl.perform()
            except pycurl.error as error:
                transfer.settle(str(error.args[-1]))
            return Answer(transfer.status, transfer.headers, bytes(transfer.refusal))
        finally:
            self._give_back(curl)

    def close(self) -> None:
        """Close the idle connections now, and those in use after it; idempotent."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> pycurl.Curl:
        try:
            return self._idle.pop()
        except IndexError:
            return self._new()

    def _give_back(self, curl: pycurl.Curl) -> None:
        for callback in _CALLBACKS:
            curl.unsetopt(callback)  # they hold on to what was received
        self._idle.append(curl)
        if self._closed:
            self.close()

    def _new(self) -> pycurl.Curl:
        curl = pycurl.Curl()
        curl.setopt(pycurl.NOSIGNAL, 1)  # signals are not for threads
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.setopt(pycurl.PATH_AS_IS, 1)  # a key may have dots between its slashes
        curl.setopt(_SUPPRESS_CONNECT_HEADERS, 1)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, self._connect_timeout_ms)
        curl.setopt(pycurl.TCP_KEEPALIVE, 1)
        curl.setopt(pycurl.BUFFERSIZE, _BUFFER_BYTES)
        curl.setopt(pycurl.NOPROGRESS, 0)
        curl.setopt(pycurl.CAPATH if Path(self._trusted).is_dir() else pycurl.CAINFO, self._trusted)
        return curl


class _Transfer:
    """One answer on its way: what libcurl calls for each of its parts, and what came of it."""

    def __init__(self, receiver: Receiver, read_timeout_s: float) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.refusal = bytearray()
        self._receiver = receiver
        self._read_timeout_s = read_timeout_s
        self._heard = math.inf
        """When a byte came last, or the connection was there; until then libcurl looks at the clock."""
        self._is_begun = False
        self._error: Exception | None = None
        """What ended the transfer from here; libcurl knows only that something did."""

    def on_connection(self, *_: object) -> int:
        self._heard = time.monotonic()
        return pycurl.PREREQFUNC_OK

    def on_header(self, line: bytes) -> int | None:
        self._heard = time.monotonic()
        if self._is_begun:
            return None  # a trailer, after the body
        if line.startswith(b"HTTP/"):
            self.status, self.headers = int(line.split(None, 2)[1]), {}
        elif not line.strip():
            if self.status >= 200:  # below, another will follow
                self._is_begun = True
                if _is_success(self.status) and not self._try(lambda: self._receiver.begin(self.headers)):
                    return -1
        else:
            name, _, value = line.decode("latin-1").partition(":")
            self.headers[name.strip().lower()] = value.strip()
        return None

    def on_body(self, chunk: bytes) -> int | None:
        self._heard = time.monotonic()
        if _is_success(self.status):
            return None if self._try(lambda: self._receiver.take(chunk)) else -1
        self.refusal += chunk[: _MOST_OF_A_REFUSAL - len(self.refusal)]
        return None

    def on_progress(self, *_: float) -> int:
        """Return what ends the transfer where nobody waits for the rest, or nothing has come for too long."""
        return 0 if self._try(self._check) else 1

    def settle(self, why: str) -> None:
        """Raise what a transfer has failed with, of which libcurl says `why`."""
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # else it and these frames hold on to each other, and to what has come
        if not self._is_begun or _is_success(self.status):
            raise TransferFailed(why)
        # Else a refusal whose body broke off: how it begins is enough.

    def _check(self) -> None:
        self._receiver.check()
        if time.monotonic() - self._heard > self._read_timeout_s:
            raise TransferFailed(f"not a byte came for {self._read_timeout_s:g} s")

    def _try(self, call: Callable[[], None]) -> bool:
        """Call, and return whether it went well; libcurl would print an exception and forget it."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 - raised by `settle`
            self._error = error
            return False
        return True


def _is_success(status: int) -> bool:
    return status in (200, 206)
