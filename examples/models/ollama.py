"""An Ollama-like server beside the local stack: SmolLM2 by llama.cpp, behind ollama-proxy-plus.

No package brings Ollama itself. What answers here streams real tokens of real weights in Ollama's framing, and
is wrong about much else, so it shows that requests come through and proves nothing about the rest:

- done_reason is always "stop", token counts are counts of words, times of loading and reading are 0
- of the options only temperature, top_p, num_predict and stop count, and format; images are ignored
- show knows every model that begins with `llama/`, pull succeeds for any, and ps lists none
- an error in a stream is a line with done: true
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.local import Part, StackError
from deploy.local.ports import http_get
from deploy.models import PreparationError, prepare
from examples.models import SMOLLM2_GGUF

_SERVER = Path(__file__).with_name("gguf_server.py")

_ALIAS = "smollm2:135m"
MODEL = f"llama/{_ALIAS}"
"""What the server calls it."""


class Ollama(Part):
    """An Ollama-like server with one model, `MODEL`, whose weights are fetched once; needs inferstream[dev]."""

    name = "ollama"
    start_timeout_s = 300.0
    port_names = ("api", "llama")
    _weights: Path

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def prepare(self) -> None:
        """Fetch the weights where they are not here yet."""
        try:
            [self._weights] = prepare(SMOLLM2_GGUF).glob("*.gguf")
        except PreparationError as error:
            raise StackError(f"{self.name}: {error}") from error

    def settings(self) -> dict[str, dict[str, Any]]:
        return {"ollama": {"api_base": self.url}}

    def command(self) -> Sequence[str]:
        ports = [str(self.ports[name]) for name in ("llama", "api")]
        # -P: the modules beside that one bear names of packages that it imports.
        return [sys.executable, "-P", str(_SERVER), str(self._weights), _ALIAS, *ports]

    def environment(self) -> dict[str, str]:
        # ollama-proxy-plus would read any .env file above it.
        own = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHON_DOTENV_DISABLED": "1", "PYTHONUNBUFFERED": "1"}
        return super().environment() | own

    def is_healthy(self) -> bool:
        return all(
            http_get(self.ports[name], path).is_success
            for name, path in (("llama", "/health"), ("api", "/api/version"))
        )
