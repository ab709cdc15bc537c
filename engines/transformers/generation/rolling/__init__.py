"""In-flight batching: rows join a running batch after a short prefill and leave it when they are done."""
