"""The stream side of inferstream: requests come from Kafka, HTTP or Python, and every one gets its answer.

- client, messages, settings: what producers of requests import
- cli, local: the command `inferstream`, and the whole product on one machine
- worker: one worker process, from its start to its drain; http: the gateway of a worker or of `inferstream serve`
- faust -> delivery: records from Kafka are handed over, answered, published and committed
- pipeline: one request through resolve, fetch, preprocess, infer and postprocess; media: the fetch
- kafka: connections, topics and the form of messages on Kafka

- testing: a broker in memory for tests of your own

The other modules serve the process as a whole: logs, plugins, faults, signals and shutdown.
"""
