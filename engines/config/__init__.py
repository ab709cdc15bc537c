"""Settings: their classes, where values come from, and what is said of those that cannot be used.

`engines.configuration` loads them: neighbours' environment < file < environment < command line.
"""
