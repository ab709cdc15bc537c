"""One request inside the engines layer: resolve, preprocess, execute, postprocess, result.

- resolve: finds handler, engine and version; job: the request, and its walk through the stages
- stages: inputs from data, output from the engine's raw result; json_form: converts values to JSON
- executor: the engine call on a leased model; direct_call: all stages in the calling thread
- results, outcomes, statistics: the result, and how it is counted and logged
- health: asks the parts of this process how they are
"""
