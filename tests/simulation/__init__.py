"""Simulation of the delivery of requests: groups of workers on a broker in memory, in virtual time, from a seed.

`plan` draws what happens in a run; `loop` is the scheduler, `workers` are the members with what may go wrong in them,
and `world` is a run with all that must hold; `run` looks for seeds that fail, and makes them small. They are tests
that run by themselves too: `make simulate RUNS=20000`.
"""
