"""The stream side: Kafka in and out, media, the worker, the HTTP gateway, the client and the command line."""
