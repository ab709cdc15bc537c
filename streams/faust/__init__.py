"""The port of `streams.delivery` on Kafka: Faust keeps the app and its agents, aiokafka the connection.

- app, faust_internals, source: Faust's app and our classes in the places of its own, and the RecordSource they make
- positions, assignment, group_offsets: what is fetched, how far it is, and what of it is committed
- producer_sink: outcomes on their way to the brokers
- membership, group_supervisor: the worker's place in its consumer group

Records flow from the consumer's thread to the event loop; commits flow back.
"""
