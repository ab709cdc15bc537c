"""The port of `streams.delivery` on Kafka: Faust keeps the app and its agents, aiokafka the connection.

- app, consumer, source: Faust's app and consumer, and the RecordSource that they make
- consumer_thread, positions, assigned_partitions, readings, fetched_records: the thread that fetches, and how far it is
- commits, producer_sink: offsets and outcomes on their way to the brokers
- membership, group_supervisor: the worker's place in its consumer group

Records flow from the consumer's thread to the event loop; commits flow back.
"""
