"""What surrounds the product on one machine: the embedded stack and the real models that `inferstream up` registers."""
