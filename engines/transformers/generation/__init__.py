"""Text generation: sequences of tokens that run together in one batch, each with its own limits and sampling.

- runner, loop: shared by all generating tasks and loops; rolling: rows join and leave a running batch
- micro_batches: batches of similar rows, for models that cannot roll
- token_sequence, sampling, cache_sizes: one answer, its next token, and the size of a batch
"""
