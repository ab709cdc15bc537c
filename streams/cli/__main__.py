"""Makes `python -m streams.cli` the same as the command `inferstream`."""

from streams.cli import main

main()
