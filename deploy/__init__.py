"""What surrounds the product on one machine: the embedded stack and the real models for demo and tests."""
