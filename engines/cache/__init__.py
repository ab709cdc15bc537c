"""Loaded models in memory, within a budget of bytes.

- model_cache, cached_model: leases, loads and evictions
- loader: one load, and its listeners; memory_budget: the limits; heap: returns freed memory to the system
"""
