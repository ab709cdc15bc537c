"""A tiny video classifier: its weights, and the clips it knows."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
