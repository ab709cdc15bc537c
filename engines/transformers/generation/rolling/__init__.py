"""In-flight batching: rows join a running batch after a short prefill and leave it when they are done.

- loop: takes waiting requests, runs their prompts between steps of the running rows, and hands out what is done
- admission: which waiting rows join next
- room: how much of the cache rows will need until they end
- batches: the running rows, in one block of cache, or in two where short rows run beside long ones
- batch, cache, attention: one block of rows, its keys and values, and how a new token attends to them
- prefill: runs prompts in pieces before they join
"""
