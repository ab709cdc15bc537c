"""Which version of a model answers, and how the next one takes its place without a gap.

- model_swap: resolves a name to the version in service; model_service: what is known of one name
- model_moves: loads the next version beside the present one; departures: unloads those that nobody needs
"""
