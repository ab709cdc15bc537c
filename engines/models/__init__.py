"""Registered models: from a name to files on this machine. MLflow is asked here and nowhere else.

- model_manager: what a name stands for, and its files; last_good: the same while MLflow is away
- mlflow_registry, mlflow_listing, registration: reading and writing the registry
- model_files, flavours, hub: files, fetched once, checked and kept within a budget
- resolved_model: the version that was found, as everything else knows it
"""
