"""The HTTP gateway: the same pipeline as on Kafka, asked by POST and answered in the response."""
