"""Servers that speak as a test has it, byte for byte, with TLS where it has a certificate."""

from __future__ import annotations

import datetime
import ipaddress
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import socket

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Serve = Callable[[socket], None]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsound"


@contextmanager
def serving(serve: Serve, certificate: Path | None = None) -> Iterator[str]:
    """Call `serve` with each connection, in a thread of its own, and yield host:port."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # the client has left, as some tests want it to
                if context is None:
                    serve(self.request)
                    return
                with context.wrap_socket(self.request, server_side=True) as secured:
                    serve(secured)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def request_of(connection: socket) -> bytes:
    """Return the next request, empty where the client has closed the connection."""
    request = b""
    while b"\r\n\r\n" not in request:
        came = connection.recv(4096)
        if not came:
            return b""
        request += came
    return request


def saying(*answers: bytes) -> Serve:
    """Return what answers the requests of each connection in turn, then closes it."""

    def serve(connection: socket) -> None:
        for answer in answers:
            if request_of(connection):
                connection.sendall(answer)

    return serve


def make_certificate(folder: Path) -> Path:
    """Write a key and a certificate for 127.0.0.1 that vouches for itself; return the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
