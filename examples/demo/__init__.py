"""The whole product in one run: `python -m examples.demo`, or `make demo`.

`models` says which models it registers, `media` makes what they are shown, `cases` holds the requests with their
right answers, `run` starts the servers, `sending` sends and waits, `progress` and `report` show what comes back.
"""
