"""Registered models: from a name to files on this machine. Only this folder talks to MLflow.

- model_manager: resolves names and fetches files; last_good: resolutions for when MLflow is away
- mlflow_registry, mlflow_listing, registration: read and write the registry
- model_files, flavours, hub: files, downloaded once, checked and kept within a budget
- resolved_model: a version, as everything else knows it
"""
