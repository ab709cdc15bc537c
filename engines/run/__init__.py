"""One request inside the engines layer: checked, prepared, run on its model, and told as a result.

- resolve: which handler, engine and version answer; job: the request on its one way
- stages: inputs from data, output from what the engine returned; json_form: what of it JSON can hold
- executor: the engine call on a leased model; direct_call: all of it in the calling thread
- results, outcomes, statistics: the result, and what is counted of it
- health: how the parts of this process are
"""
