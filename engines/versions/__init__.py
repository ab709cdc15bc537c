"""Which version of a model answers, and how the next one replaces it without a gap.

- versions: resolves a name to its active version, and loads the next one beside it
- active_version: the state machine of one name; retirement: unloads unneeded versions
"""
