"""Options of requests: one table, from which validation, docs/options.md and the JSON Schema are made.

- options, ollama: the table, and how a request is checked against it; spec: what one option is
- schema: the table as JSON Schema
"""
