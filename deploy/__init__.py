"""The embedded stack, and the real models that `inferstream up` registers."""
