"""A tiny audio classifier: its weights, and the sounds it knows."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
