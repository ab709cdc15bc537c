"""Models run in this process by Hugging Face transformers.

- engine, runner: the engine, and the table of which runner serves a task and kind of model
- loading, process_state, shared_vlms: a model's folder, loaded one at a time
- device, packed_weights, memory_limits: torch, number formats, and what fits a batch
- classification: tasks that give labels
- text, speech, documents: the runners of the other tasks; generation: loops that write text, which they stand on
"""
