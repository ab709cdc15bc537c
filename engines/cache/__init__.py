"""Loaded models in memory, within a budget of bytes.

- model_cache, cached_model: who holds a model, and who may be evicted
- loader: one load, and what listeners are told; memory_budget: how much room there is; heap: memory given back
"""
