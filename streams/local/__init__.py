"""The whole product on this machine, for `inferstream up`: servers, topics, models and a worker.

- platform: starts and stops them together; status: their lines in the terminal
"""
