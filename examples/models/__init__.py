"""What demo, bench and tests have beyond `inferstream up`: models as files, and an Ollama-like server.

>>> python -m examples.models [--check] [NAME ...]        # prepares models and prints their folders
"""

from dataclasses import replace

from deploy.models import CATALOGUE

SMOLLM2_GGUF = replace(
    CATALOGUE["smollm2-135m-instruct"],
    name="smollm2-135m-instruct-gguf",
    title="SmolLM2 135M Instruct for llama.cpp",
    converter=None,
)

RECIPES = {**CATALOGUE, SMOLLM2_GGUF.name: SMOLLM2_GGUF}
"""Every model that can be prepared here, by name."""
