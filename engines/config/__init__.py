"""Settings: their classes, and the messages about invalid ones.

`engines.configuration` loads them: neighbours' environment < file < environment < command line.
"""
