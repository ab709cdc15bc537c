"""Which version of a model answers, and how the next one replaces it without a gap.

- versions: resolves a name to its active version; active_version: the state machine of one name
- version_loader: loads the next version beside the active one; retirement: unloads unneeded versions
"""
