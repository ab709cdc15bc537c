"""Options of requests: one table, used for validation, docs/options.md and the JSON Schema.

- options, options.toml: the table, and the validation of a request; spec: one option, and the JSON Schema of several
"""
