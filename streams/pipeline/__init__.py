"""One request from its check to its result, the same for Kafka, HTTP and Python.

- runtime: builds the parts from the settings
- pipeline, fast_lane: the stages of a request, by a task, or by callbacks where nothing is to wait for
- dispatcher, batcher, batch_queue, engine_executors: how it gets to its engine, beside others
- byte_budget, slow_stages: bounds of memory, and which handlers may run on the event loop
- decoding: requests from bytes
"""
