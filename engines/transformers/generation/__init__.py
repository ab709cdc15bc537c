"""Writing text: sequences of tokens that run together in one batch, each with its own limits and sampling.

- runner, loop: what all generating tasks and loops share; rolling: rows join and leave a running batch
- micro_batches, batch_generation: batches of alike rows, for models that cannot roll
- token_sequence, sampling, cache_sizes: one answer, its next token, and what a batch may hold
"""
