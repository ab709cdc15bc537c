"""One worker process.

- worker: builds every part once, runs them until it is told to stop, and drains
- event_publisher: publishes metrics events about the worker and its models
"""
