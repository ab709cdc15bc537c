"""The engine for models on an Ollama server, over HTTP."""
