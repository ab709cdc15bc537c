"""Lets `python -m streams.cli` stand for the command `inferstream`."""

from streams.cli import main

main()
