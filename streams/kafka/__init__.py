"""Kafka, and what stands between it and the delivery of requests."""
