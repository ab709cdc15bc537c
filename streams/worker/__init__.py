"""One worker process.

- worker: builds every part once, runs them until told to stop, and drains before it goes
- event_publisher: tells the events topic of the worker and of its models
"""
