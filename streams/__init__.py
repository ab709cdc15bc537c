"""The stream side of inferstream: takes requests from Kafka, HTTP and Python, and answers every one.

- client, messages, settings: what producers of requests import
- cli, local: the command `inferstream`, and the whole product on one machine
- worker: one worker process, from its start to its drain; http: the gateway of a worker or of `inferstream serve`
- faust -> delivery: fetches records from Kafka, has them answered, publishes the results and commits
- pipeline: one request through resolve, fetch, preprocess, infer and postprocess; media: the fetch
- kafka: connections, topics and the form of messages on Kafka
- testing: a worker in memory, for tests of your own tasks and engines

The other modules serve the process as a whole: logs, plugins, faults, signals and shutdown.
"""
