"""Models run in an Ollama server, which this process asks over HTTP."""
