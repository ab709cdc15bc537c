"""The port of `streams.delivery` on Kafka: Faust runs the app and its agents, aiokafka the connections.

- app, faust_internals, port: the Faust app, our subclasses of Faust's classes, and the source and sink they form
- positions, assignment, group_offsets: what is fetched, how far it is read, and what of it is committed
- membership, group_supervisor: the worker's membership in its consumer group

Records flow from the consumer's thread to the event loop; commits flow back.
"""
