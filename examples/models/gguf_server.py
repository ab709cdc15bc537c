"""Serves one GGUF model by llama.cpp behind an Ollama-like API: the program of `examples.models.ollama`.

    python -P gguf_server.py GGUF_FILE ALIAS LLAMA_PORT PORT

llama.cpp answers in OpenAI's manner on LLAMA_PORT; ollama-proxy-plus asks it there and answers in Ollama's on
PORT, where the model is called llama/ALIAS. Both listen on this machine only, and run in this one process.
"""

from __future__ import annotations

import os
import sys

from deploy.local.ports import HOST

_CONTEXT_TOKENS = 2048
_PARALLEL = 2


def main() -> None:
    gguf_file, alias, llama_port, port = sys.argv[1:]
    import xllamacpp  # type: ignore[import-untyped]

    params = xllamacpp.CommonParams()
    params.model.path = gguf_file
    params.model_alias = {alias}
    params.n_ctx = _CONTEXT_TOKENS * _PARALLEL  # shared by those that run at once
    params.n_parallel = _PARALLEL
    params.hostnames = [HOST]
    params.port = int(llama_port)
    # Threads that spin while they wait slow each other down 15 times on two busy cores.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cpuparams.poll = 0
    server = xllamacpp.Server(params)

    # The proxy reads all of this when it is imported.
    os.environ["PROVIDERS_LLAMA_BASE_URL"] = f"http://{HOST}:{llama_port}/v1"
    os.environ["PROVIDERS_LLAMA_API_KEY"] = "none"  # it must not be empty
    os.environ["EXTRA_MODELS"] = f"llama/{alias}"
    import uvicorn
    from ollama_proxy.server import app  # type: ignore[import-untyped]

    uvicorn.run(app, host=HOST, port=int(port), log_level="warning")
    del server  # held until here, because it stops when it is dropped


if __name__ == "__main__":
    main()
