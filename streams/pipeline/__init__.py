"""One request from its check to its result, the same for Kafka, HTTP and Python.

- runtime: builds the parts from the settings
- pipeline, fast_lane: the stages of a request, run by a task, or by callbacks while it waits only for its batch
- dispatcher, batcher, batch_queue: hand requests to their engine, in batches, and in which threads
- byte_budget, slow_stages: bound the memory, and find handlers that are too slow for the event loop
- decoding: requests from bytes
"""
