"""The HTTP gateway: POST a request and get its result in the response, by the same pipeline as on Kafka."""
