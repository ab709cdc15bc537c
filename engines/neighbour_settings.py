"""Settings that other programs' environment variables already hold: defaults below our file and environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engines.settings import Given

_OLLAMA_PORT = {"http": "80", "https": "443"}
_OLLAMA_OWN_PORT = "11434"


def address_of_ollama_host(host: str) -> str:
    """Return the address that OLLAMA_HOST means, which may lack scheme and port.

    Source: https://github.com/ollama/ollama/blob/main/envconfig/config.go, Host. A server that listens on every
    address is asked on this machine.
    """
    scheme, _, rest = host.strip().strip("\"'").rpartition("://")
    authority, slash, path = rest.partition("/")
    name, port = authority, ""
    if not authority.endswith("]") and ":" in authority:
        name, _, port = authority.rpartition(":")
    name = "127.0.0.1" if name in ("", "0.0.0.0", "[::]") else name
    port = port or _OLLAMA_PORT.get(scheme, _OLLAMA_OWN_PORT)
    return f"{scheme or 'http'}://{name}:{port}{slash}{path}".rstrip("/")


def _as_it_is(value: str) -> str:
    return value


NEIGHBOURS: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "KAFKA_BOOTSTRAP_SERVERS": ("kafka.bootstrap_servers", _as_it_is),
    "MLFLOW_TRACKING_URI": ("mlflow.tracking_uri", _as_it_is),
    "MLFLOW_TRACKING_USERNAME": ("mlflow.username", _as_it_is),
    "MLFLOW_TRACKING_PASSWORD": ("mlflow.password", _as_it_is),
    "OLLAMA_HOST": ("ollama.api_base", address_of_ollama_host),
    "AWS_ENDPOINT_URL": ("s3.endpoint_url", _as_it_is),
    "AWS_ENDPOINT_URL_S3": ("s3.endpoint_url", _as_it_is),
    "AWS_DEFAULT_REGION": ("s3.region", _as_it_is),
    "AWS_REGION": ("s3.region", _as_it_is),
}
"""Variable -> the setting it stands for, and how its value reads there; a later one goes before an earlier one.

HF_HOME, NO_COLOR, OTEL_* and AWS credentials are read by the libraries that they are meant for.
"""


def read_neighbours(environ: Mapping[str, str]) -> dict[str, Given]:
    """Return what these variables set, by the setting's key; an empty one sets nothing."""
    return {
        key: Given(read(environ[name]), f"env {name}")
        for name, (key, read) in NEIGHBOURS.items()
        if environ.get(name, "").strip()
    }
