"""Delivery: each record ends in one published outcome, and is committed only then. Runs on any source and sink.

- port: RecordSource and RecordSink, all that delivery knows of a broker
- stream: follows the topics: fetch -> request_consumer -> publisher -> offsets -> committer -> commit
- request_consumer, backlog, offsets: what is in flight, what waits for room, what may be committed
- crash_guard: which request ends each worker that runs it
- publisher, producer, dead_letters: outcomes on their way to the sink
- memory_broker, memory_client: a broker in memory, for tests and simulations

`streams.faust` has the source and the sink on Kafka.
"""
