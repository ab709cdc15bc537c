"""The engine that runs Hugging Face models in this process.

- engine, runner, shared_models: the engine; the table of runners by task and kind of model; models that tasks share
- loading, process_state: loading of model folders, one at a time
- device, packed_weights, memory_limits: torch, number formats, and how much fits a batch
- classification: tasks that return labels; vlm: vlm and video-analysis; speech, documents: the other tasks
- generation: text-generation, and the loops that generate text for all tasks
"""
