"""Delivery: every record ends in one published outcome, and only then is its offset committed.

- port: RecordSource and RecordSink, all that delivery knows of a broker
- stream: follows the topics: fetch -> request_consumer -> publisher -> offsets -> committer -> commit
- request_consumer, backlog, offsets: records in flight, records that wait for room, offsets that may be committed
- under_way: requests that run; they end or go on when partitions are reassigned
- crash_guard: finds a request that crashes each worker that runs it
- publisher, producer: send outcomes to the sink
- memory_broker, memory_client: a broker in memory, for tests and simulations

`streams.faust` has the source and the sink on Kafka.
"""
